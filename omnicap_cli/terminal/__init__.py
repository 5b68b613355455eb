"""All that writes to a person: console, progress, views, signals. May import what it shows, and no job or command."""
