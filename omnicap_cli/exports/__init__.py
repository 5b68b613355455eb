"""A journal into other forms, one small module each; `convert` and `caption -o` are their callers.

May import `media`, `core`.
"""
