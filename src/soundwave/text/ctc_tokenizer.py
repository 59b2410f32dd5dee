"""CTC targets: text to CTC classes and back, over the whole LLM vocabulary or a small part of it.

A restricted vocabulary keeps the LLM's own tokens but only some of its merges, so every word can be spelt with pieces
that the training speech contains often. A word that never occurred in training can then still be recognised.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from soundwave.errors import ConfigurationError

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
            self._space = [one for token, one in self.class_of.items() if self._pieces.id_to_token(token) == SPACE_BYTE]

    def encode(self, text: str) -> list[int]:
        """Text to classes. Characters outside the vocabulary are left out."""
        if self.vocabulary is None:
            return self.tokenizer(text, add_special_tokens=False).input_ids
        ids = self._pieces.encode(" " + text, add_special_tokens=False).ids
        return [self.class_of[token] for token in ids if token in self.class_of]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Classes of each of several words, as they are inside a text; none of one without letters, such as 42."""
        if self.vocabulary is None:
            return [self.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
        found = self._pieces.encode_batch([f" {word}" for word in words], add_special_tokens=False)
        classes = [[self.class_of[token] for token in one.ids if token in self.class_of] for one in found]
        return [[] if one == self._space else one for one in classes]

    def decode(self, classes: Iterable[int]) -> str:
        """Classes (blanks removed) to text."""
        ids = list(classes) if self.vocabulary is None else [self.vocabulary[c] for c in classes]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


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
    definition["model"]["vocab"] = {piece: one for piece, one in ids.items() if one in allowed or len(piece) == 1}
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
