"""One thin file per subcommand: parse, build a config, call, print."""
