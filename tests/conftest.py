"""The fixtures that tests of several files ask for by name."""

from cli_runs import engine, recordings

__all__ = ["engine", "recordings"]
