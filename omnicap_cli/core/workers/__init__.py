"""Child processes, and work done ahead of time in threads.

May import `core.files`.
"""
