"""Requests to results. An engine knows pixels and prompts, never commands, journals or the terminal."""
