"""Prompts out of a published inference script, which is read as a syntax tree and never run.

May import `core.prompts`, `core.runs`, `core.files`.
"""
