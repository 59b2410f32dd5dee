"""Asking a loaded model: the engine, its typed results, and the decoders that it can hand embeddings to."""
