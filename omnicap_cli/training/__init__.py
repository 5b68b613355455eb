"""Fine-tuning of vision-language models on counted data.

May import `media`, `core`.
"""
