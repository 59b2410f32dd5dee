"""How translations are judged: BLEU and chrF of the corpus by sacrebleu, each with its signature, to be repeatable.

Replies and references are compared as they are written, in any number of references: nothing is normalised first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics import BLEU, CHRF


@dataclass(frozen=True)
class TranslationScore:
    """Both figures from 0 to 100, as papers give them, and sacrebleu's signatures."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def translation_score(replies: Sequence[str], references: Sequence[Sequence[str]]) -> TranslationScore:
    """Scores replies against the translations that are right for each.

    Args:
        replies: one for each sentence.
        references: for each sentence, one translation or several.

    Example:
        >>> round(translation_score(["Das ist gut so."], [["Das ist gut so.", "So ist es gut."]]).bleu)
        100
    """
    most = max(len(texts) for texts in references)
    # sacrebleu wants the first reference of all sentences, then the second; None where a sentence has no more.
    columns: Any = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    bleu, chrf = BLEU(), CHRF()
    figures = bleu.corpus_score(list(replies), columns).score, chrf.corpus_score(list(replies), columns).score
    return TranslationScore(*figures, str(bleu.get_signature()), str(chrf.get_signature()))
