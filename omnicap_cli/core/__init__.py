"""What every command shares. Knows records and iterators; knows no engine, never prints, never exits."""
