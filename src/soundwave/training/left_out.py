"""What a run leaves out because it cannot be read: named once, and counted at the end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable


class LeftOut:
    """Shards, rows and clips that cannot be used, each told to a person once however often it is met.

    Args:
        say: tells a person.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self._met = Counter[str]()
        self._lock = threading.Lock()  # the lanes of a stream read in threads of their own

    def name(self, name: str, problem: str) -> None:
        """Names something that is left out, if it is new.

        Args:
            name: which one it is; the same again is only counted.
            problem: what is wrong with it, named in full.
        """
        with self._lock:
            self._met[name] += 1
            new = self._met[name] == 1
        if new:
            self.say(f"left out: {problem}")

    def count(self) -> None:
        """Says how many there were, if any was met again after it was named."""
        with self._lock:
            several, times = len(self._met), sum(self._met.values())
        if times > several:
            self.say(f"left out, each as named above: {several}, met {times} times in all")
