"""What a training configuration may say, and how it is read and compared.

May import `core`.
"""
