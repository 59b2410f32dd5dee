"""Decoders behind the seam: audio and text embeddings in, tokens out."""
