"""Checkpoints: names to files (`catalog`), the files our models are made of (`parts`), and their formats."""
