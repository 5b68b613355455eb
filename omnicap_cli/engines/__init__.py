"""Requests to results. An engine knows pixels and prompts, and neither commands, journals nor the terminal.

May import `media`, `core`.
"""
