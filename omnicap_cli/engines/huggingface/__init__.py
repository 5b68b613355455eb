"""Vision-language models through transformers. May import `engines`, `media` and `core`."""
