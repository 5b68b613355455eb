"""The records that flow, the journal that keeps them, and the loop between.

May import `core.files`.
"""
