"""One run of each command, from its configuration to its exit code. May import everything but `commands`."""
