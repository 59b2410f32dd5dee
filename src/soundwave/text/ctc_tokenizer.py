"""CTC targets: text to CTC classes and back, over the whole LLM vocabulary or a small part of it.

A restricted vocabulary keeps the LLM's own tokens but only some of its merges, so every word can be spelt with pieces
that the training speech contains often. A word that never occurred in training can then still be recognised.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from soundwave.errors import ConfigurationError
from soundwave.text.tokenizing import token_ids

SPACE_BYTE = "Ġ"  # how byte-level BPE writes a space
PIECE = re.compile(rf"{SPACE_BYTE}?[a-z']*")


class CtcTokenizer:
    """Words to CTC classes.

    Args:
        tokenizer: the LLM's fast tokenizer (byte-level BPE for a restricted vocabulary).
        vocabulary: LLM token ids in class order, or None for the whole vocabulary.

    Raises:
        ConfigurationError: a restricted vocabulary over a tokenizer that is no byte-level BPE.
    """

    def __init__(self, tokenizer: Any, vocabulary: Sequence[int] | None = None):
        self.tokenizer = tokenizer
        self.vocabulary = None if vocabulary is None else list(vocabulary)
        if self.vocabulary is not None:
            self.class_of = {token: i for i, token in enumerate(self.vocabulary)}
            self._pieces = _restricted(tokenizer, set(self.vocabulary))
            self._letters: dict[str, str] = {}

    def encode(self, text: str) -> list[int]:
        """Text to classes. A letter outside a restricted vocabulary is spelt without its marks, é as e, or left out."""
        if self.vocabulary is None:
            return token_ids(self.tokenizer, text)
        ids = self._pieces.encode(" " + self._spellable(text), add_special_tokens=False).ids
        return [self.class_of[token] for token in ids if token in self.class_of]

    @property
    def pieces(self) -> list[str]:
        """The text of each class in small letters; a leading space begins a word."""
        ids = list(range(len(self.tokenizer))) if self.vocabulary is None else self.vocabulary
        return [name.replace(SPACE_BYTE, " ").lower() for name in self.tokenizer.convert_ids_to_tokens(ids)]

    def _spellable(self, text: str) -> str:
        """The text with letters that have no classes replaced by their base letters, where those have some."""
        if text.isascii():
            return text
        for character in set(text) - self._letters.keys():
            base = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
            known = [self._has_classes(letter) for letter in (character, base)]
            self._letters[character] = base if known == [False, True] else character
        return "".join(map(self._letters.__getitem__, text))

    def _has_classes(self, text: str) -> bool:
        return all(token in self.class_of for token in self._pieces.encode(text, add_special_tokens=False).ids)

    def decode(self, classes: Iterable[int]) -> str:
        """Classes (blanks removed) to text."""
        ids = list(classes) if self.vocabulary is None else [self.vocabulary[c] for c in classes]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def ctc_frames_needed(classes: Sequence[int]) -> int:
    """Aligned frames (25 Hz) that CTC needs at least: one a class, and a blank between two equal ones.

    With fewer, no alignment exists: the loss is infinite, and PyTorch's `zero_infinity` makes it 0.
    """
    return len(classes) + sum(ctc_class == other for ctc_class, other in pairwise(classes))


def _definition(tokenizer: Any) -> dict[str, Any]:
    """The parts of a byte-level BPE tokenizer as JSON."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = definition["model"].get("type")
    if kind != "BPE" or SPACE_BYTE not in definition["model"]["vocab"]:
        raise ConfigurationError(
            f"A restricted CTC vocabulary needs a byte-level BPE tokenizer, but this one is {kind}"
            f"{' over characters' if kind == 'BPE' else ''}; use the whole vocabulary."
        )
    return definition


def _restricted(tokenizer: Any, allowed: set[int]) -> Tokenizer:
    """The tokenizer with only those merges whose parts and result are allowed."""
    definition = _definition(tokenizer)
    ids = definition["model"]["vocab"]
    kept = []
    for merge in definition["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if all(ids.get(piece) in allowed for piece in (left, right, left + right)):
            kept.append(merge)
    definition["model"]["merges"] = kept
    # single characters stay, so that one without a class still parts what is around it
    kept_ids = {piece: number for piece, number in ids.items() if number in allowed or len(piece) == 1}
    definition["model"]["vocab"] = kept_ids
    definition["added_tokens"] = []
    definition["post_processor"] = None
    return Tokenizer.from_str(json.dumps(definition))


def build_vocabulary(tokenizer: Any, texts: Iterable[str], size: int) -> list[int]:
    """Chooses the LLM tokens that CTC may emit: letters and the LLM's earliest merges of lower-case letters.

    Args:
        tokenizer: the LLM's fast byte-level BPE tokenizer.
        texts: normalised transcripts; a merged piece that never occurs in them is left out.
        size: how many tokens at most.

    Returns:
        Token ids, sorted.

    Raises:
        ConfigurationError: the tokenizer is no byte-level BPE.
    """
    definition = _definition(tokenizer)
    ids: dict[str, int] = definition["model"]["vocab"]
    letters = [SPACE_BYTE, "'", *"abcdefghijklmnopqrstuvwxyz"]
    chosen = [ids[letter] for letter in letters]
    reachable = set(letters)
    for merge in definition["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        piece = left + right
        if left in reachable and right in reachable and PIECE.fullmatch(piece) and piece not in reachable:
            reachable.add(piece)
            chosen.append(ids[piece])
        if len(chosen) == size:
            break
    counts: Counter[int] = Counter()
    restricted = _restricted(tokenizer, set(chosen))
    for text in texts:
        counts.update(restricted.encode(" " + text, add_special_tokens=False).ids)
    inner = _merge_parts(definition, {token for token in chosen if counts[token]}, ids)
    return sorted(token for token in chosen if counts[token] or token in inner or token in chosen[: len(letters)])


def merge_table(tokenizer: Any, vocabulary: Sequence[int]) -> list[tuple[int, int, int]]:
    """The LLM's own merges that lead on from a restricted vocabulary: (left, right, merged) ids in the order of rank.

    With them, pieces that CTC emitted become the tokens that the LLM itself would write for the word.
    """
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    ids: dict[str, int] = definition["model"]["vocab"]
    reachable, table = set(vocabulary), []
    for merge in definition["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if ids.get(left) in reachable and ids.get(right) in reachable and PIECE.fullmatch(left + right):
            reachable.add(ids[left + right])
            table.append((ids[left], ids[right], ids[left + right]))
    return table


def _merge_parts(definition: dict[str, Any], used: set[int], ids: dict[str, int]) -> set[int]:
    """Tokens that a used piece is merged from: BPE passes through them."""
    parts: set[int] = set()
    for merge in reversed(definition["model"]["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if ids.get(left + right) in used | parts:
            parts |= {ids[left], ids[right]}
    return parts
