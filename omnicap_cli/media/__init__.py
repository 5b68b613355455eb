"""Bytes to pixels: where inputs are found and how they are decoded. Knows no engine and no command."""
