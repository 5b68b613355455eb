"""Token counts for a training set: what training will feed the model, known beforehand.

May import `media`, `core`.
"""
