"""Devices, model files and loading. May import `core.files` and `core.workers`."""
