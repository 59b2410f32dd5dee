"""A bank of units: what the alignment adapter made of real speech, cut at its CTC tokens, to say texts with.

A unit is the run of aligned frames that forced alignment gives to one CTC token of the transcript. It lies under the
token that was *said*; the scores that follow from its frames may well prefer another. So what is put together from
units has the errors, splits, merges, blanks and doubts of real speech, without any model of them (unit selection, as in
concatenative synthesis, Hunt and Black 1996, but between adapter and LLM).

Knows nothing about models or text: a token is a number.
"""

# N units, F aligned frames (25 Hz), D LLM width

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundwave.errors import DataError
from soundwave.files import atomic_folder, hash_file, write_json

Ints = NDArray[np.int32]

EDGE = -1  # stands before the first and after the last token of a clip, and has no frames
LONGEST_RUN = 8  # units that are taken from one place together
NOTE, UNITS, FRAMES = "bank.json", "units.npy", "frames.f16"


class BankWriter:
    """Adds clips to a bank that is being made; see `writing_bank`."""

    def __init__(self, folder: Path):
        self.folder, self.clips, self.frames = folder, 0, 0
        self._rows: list[tuple[int, int]] = [(EDGE, 0)]
        self._file = (folder / FRAMES).open("wb")

    def add(self, tokens: Sequence[int], sizes: Sequence[int], frames: np.ndarray) -> None:
        """One clip: its tokens, how many frames each has, and the frames (F, D), which are all given to some token."""
        assert len(frames) == sum(sizes)
        self._file.write(np.ascontiguousarray(frames, dtype=np.float16).tobytes())
        self._rows += [*zip(tokens, sizes, strict=True), (EDGE, 0)]
        self.clips, self.frames = self.clips + 1, self.frames + len(frames)

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self._rows) - 1 - self.clips

    def finish(self, about: dict[str, Any]) -> None:
        """Writes the units' table and what the bank says about itself."""
        self._file.close()
        np.save(self.folder / UNITS, np.array(self._rows, np.int32), allow_pickle=False)
        write_json(self.folder / NOTE, {**about, "clips": self.clips, "units": self.units, "frames": self.frames})


@contextmanager
def writing_bank(
    folder: Path, adapter: str, width: int, seconds_per_frame: float, word_starts: Sequence[int],
    overwrite: bool = False,
) -> Iterator[BankWriter]:
    """A bank that appears whole, or not at all.

    Args:
        folder: new, or an empty one.
        adapter: the mark of the alignment adapter whose frames these are, and of what its classes mean.
        width: D.
        seconds_per_frame: of an aligned frame.
        word_starts: the tokens that begin a word.
        overwrite: what is there may be replaced.

    Raises:
        WriteError: something is there already, or cannot be written.
    """
    with atomic_folder(folder, overwrite=overwrite) as draft:
        writer = BankWriter(draft)
        yield writer
        writer.finish({
            "adapter": adapter, "width": width, "seconds_per_frame": seconds_per_frame,
            "word_starts": list(word_starts),
        })


class UnitBank:
    """Reads a bank and says texts with it.

    Args:
        folder: what `soundwave data units` wrote.

    Raises:
        DataError: it is no bank, or parts of it are missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            about = json.loads((folder / NOTE).read_text(encoding="utf-8"))
            table = np.load(folder / UNITS, allow_pickle=False)
            self.adapter, self.width = str(about["adapter"]), int(about["width"])
            self.seconds_per_frame = float(about["seconds_per_frame"])
            self._word_starts = frozenset(about["word_starts"])
            shape = (int(about["frames"]), self.width)
            self._frames = np.memmap(folder / FRAMES, np.float16, "r", shape=shape)
            if {table[0, 0], table[-1, 0]} != {EDGE} or table[:, 1].min() < 0 or table[:, 1].sum() != shape[0]:
                raise ValueError(f"{UNITS} does not fit {FRAMES}")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{folder} is no bank of units that can be read ({type(error).__name__}: {error}); make it with: "
                "soundwave data units MANIFEST --model MODEL --out BANK"
            ) from error
        self.tokens: Ints = np.ascontiguousarray(table[:, 0])
        self._starts = np.concatenate([[0], np.cumsum(table[:, 1], dtype=np.int64)])
        self._order, self._columns = _sorted_runs(self.tokens)
        known = self.tokens >= 0
        counts, sums = np.bincount(self.tokens[known]), np.bincount(self.tokens[known], table[known, 1])
        self._mean_frames = sums / np.maximum(counts, 1)
        self._counts = counts

    def mark(self) -> str:
        """A short text that changes with the bank's content."""
        return hash_file(self.folder / UNITS)[:16]

    def lacks(self, tokens: Sequence[int]) -> list[int]:
        """Those of the tokens that it has no unit of."""
        return [token for token in dict.fromkeys(tokens) if token >= len(self._counts) or not self._counts[token]]

    def seconds(self, tokens: Sequence[int]) -> float:
        """How long a text is on average; it must lack none of the tokens."""
        return float(self._mean_frames[list(tokens)].sum()) * self.seconds_per_frame

    def say(self, tokens: Sequence[int], seed: str) -> np.ndarray:
        """(F, D) float16 aligned frames of a text; the same for the same seed.

        Args:
            tokens: its CTC tokens, at least one, of which the bank lacks none.
            seed: decides which units are taken.
        """
        runs = self.runs(tokens, np.random.default_rng(list(seed.encode())))
        return np.concatenate([self._frames[self._starts[first] : self._starts[last]] for first, last in runs])

    def runs(self, tokens: Sequence[int], draw: np.random.Generator) -> list[tuple[int, int]]:
        """The units of a text as runs of neighbours in the bank: the first, and one past the last.

        From left to right the longest run that the bank has is taken, up to where a word ends if one does within it.
        Among several, those whose left neighbour is the same as in the text are preferred, then chance decides.
        """
        text = [*tokens, EDGE]
        chosen, at, before = [], 0, EDGE
        while at < len(tokens):
            low, high, length = self._longest(text, at)
            candidates = self._order[low:high]
            alike = candidates[self.tokens[candidates - 1] == before]
            first = int(draw.choice(alike if len(alike) else candidates))
            length = min(length, len(tokens) - at)  # without the edge
            chosen.append((first, first + length))
            at += length
            before = text[at - 1]
        return chosen

    def _longest(self, text: Sequence[int], at: int) -> tuple[int, int, int]:
        """Bounds in the order, and length, of the run that is taken for the text from `at` on."""
        low, high = 0, len(self._order)
        found: list[tuple[int, int, int]] = []
        for length, column in enumerate(self._columns[: len(text) - at], 1):
            part = column[low:high]
            wanted = text[at + length - 1]
            low, high = low + int(part.searchsorted(wanted)), low + int(part.searchsorted(wanted, "right"))
            if low == high:
                break
            found.append((low, high, length))
        for run in reversed(found):
            following = text[at + run[2]] if at + run[2] < len(text) else EDGE
            if following == EDGE or following in self._word_starts:
                return run
        return found[-1]


def _sorted_runs(tokens: Ints) -> tuple[Ints, Ints]:
    """The units in the order of the tokens that begin with them, and (LONGEST_RUN, N) those tokens."""
    units = np.flatnonzero(tokens != EDGE).astype(np.int32)
    columns = np.full((LONGEST_RUN, len(units)), EDGE, np.int32)
    inside = np.ones(len(units), bool)
    for ahead in range(LONGEST_RUN):
        columns[ahead, inside] = tokens[units[inside] + ahead]
        inside &= columns[ahead] != EDGE
    order = np.lexsort(columns[::-1])
    return units[order], np.ascontiguousarray(columns[:, order])
