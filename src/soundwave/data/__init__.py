"""Training and evaluation data: examples, the readers and writers of every manifest format, shards, probing."""
