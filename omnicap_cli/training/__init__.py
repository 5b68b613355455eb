"""Fine-tuning of vision-language models on counted data."""
