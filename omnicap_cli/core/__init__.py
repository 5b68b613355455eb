"""What every command shares. It knows records and iterators and no engine; it never prints and never exits.

May import nothing above it. Between its rooms arrows go from `core.tokens` over `core.prompts` and `core.runs` to
`core.files`, and from `core.batching` over `core.models` and `core.workers` to `core.files`.
"""
