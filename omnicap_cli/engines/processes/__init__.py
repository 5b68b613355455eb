"""Processes of engines on the CPU. May import `core`."""
