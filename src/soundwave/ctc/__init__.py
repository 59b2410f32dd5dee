"""From CTC log-probabilities to text: greedy, or a beam search over a lexicon with an n-gram and hot words.

Knows nothing about models, audio or prompts: it reads numpy arrays of (frames, classes).
"""
