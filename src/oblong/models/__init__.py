"""Models: Hugging Face models loaded quietly, strictly and without remote code."""
