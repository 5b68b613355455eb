"""Files behind URLs. May import `core`."""
