"""oblong: which weights can be fine-tuned without forgetting."""
