"""Captions inside copies of the pictures, or beside them, as XMP. May import `exports`, `media` and `core`."""
