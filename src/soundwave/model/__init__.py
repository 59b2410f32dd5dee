"""The model: a frozen Whisper encoder, the alignment and shrinking adapters, and any causal LM."""
