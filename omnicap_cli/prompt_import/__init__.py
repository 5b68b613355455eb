"""Prompts out of a published inference script, which is read and followed, but never run or imported."""
