"""The catalogue of what can be asked, and prompts read from a model's own script.

May import `core.runs`, `core.files`.
"""
