"""Text on both sides of the model: prompts, CTC targets, normalisation."""
