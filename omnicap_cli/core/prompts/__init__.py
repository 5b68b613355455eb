"""The catalogue of what can be asked. May import `core.runs` and `core.files`."""
