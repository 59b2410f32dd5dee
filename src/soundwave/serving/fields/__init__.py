"""The fields of requests, and what is wrong with them in a sentence."""
