"""Child processes, and work done ahead of time. May import `core.files`."""
