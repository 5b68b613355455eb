"""Processes of engines on the CPU.

May import `engines`, `media`, `core`.
"""
