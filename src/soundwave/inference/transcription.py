"""Writing down what is said: by the LLM alone, or by the LLM and CTC together where a model is made for it.

The search of both (`joint.py`) gives several texts. Words that were spelt by ear become known ones (`lexicon.py`), and
the plain LLM, which knows what people write, has a say in which text it is, and in which words fit it better
(`rewording.py`): it reads each text as if it had been typed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from soundwave.inference.backends.torch import TorchBackend
from soundwave.inference.hearing import Heard
from soundwave.inference.results import Speech
from soundwave.inference.sampling import Sampling
from soundwave.inference.search import TranscriptSearch, transcript_tokens
from soundwave.inference.typed import TypedReader
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer


class Transcription:
    """Finds the words of recordings.

    Args:
        processor: the model's.
        ctc: makes CTC classes from words.
        backend: runs the model's LLM.
    """

    def __init__(self, processor: SoundwaveProcessor, ctc: CtcTokenizer, backend: TorchBackend):
        self.processor, self.ctc, self.backend = processor, ctc, backend
        self.config = backend.model.config
        self._reader = TypedReader(processor, backend)
        self._search: TranscriptSearch | None = None

    def texts(self, heard: Sequence[Heard], prompt: Tensor, search: bool) -> list[str]:
        """What is said in each recording, empty where nothing is.

        Args:
            heard: the recordings.
            prompt: (L,) token ids that ask for a transcript.
            search: by LLM and CTC together, in those that have CTC's scores; else by the LLM alone, greedily.
        """
        said = [""] * len(heard)
        spoken = [i for i, one in enumerate(heard) if one.speech is not None and one.speech.ctc_token_ids]
        if not spoken:
            return said
        chosen = [heard[i] for i in spoken]
        limits = [transcript_tokens(one.duration) for one in chosen]
        prompts, audio = [prompt] * len(chosen), [_speech(one).embeddings for one in chosen]
        sampling = Sampling(temperature=0, max_new_tokens=max(limits))
        logits = [one.ctc_logits for one in chosen if one.ctc_logits is not None] if search else []
        if logits:
            scorer = self.searcher().scorer(logits, limits)
            found = self.backend.search(prompts, audio, sampling, scorer)
            scored = [[(ids, scorer.total(i, ids)) for ids in some] for i, some in enumerate(found)]
            texts = [self._reworded(one, self._chosen(one, some)) for one, some in zip(chosen, scored, strict=True)]
        else:
            alone = self.backend.batch(prompts, audio, sampling)
            texts = [self._text(ids[:limit]) for ids, limit in zip(alone, limits, strict=True)]
        for i, text in zip(spoken, texts, strict=True):
            said[i] = text
        return said

    def read(self, heard: Heard, search: bool) -> str:
        """What CTC alone reads in a recording, with known words where it is made for the search, which is wanted."""
        text = _speech(heard).ctc_text
        if not search or heard.ctc_logits is None:
            return text
        return self.searcher().respelt(text, heard.ctc_logits, text).lower()  # as all that CTC reads

    def searcher(self) -> TranscriptSearch:
        """Made when it is first needed: it collects the words of the LLM's vocabulary."""
        if self._search is None:
            self._search = TranscriptSearch(
                self.config, self.processor.tokenizer, self.ctc, self.backend.end_ids, self._reader
            )
        return self._search

    def _chosen(self, heard: Heard, found: Sequence[tuple[list[int], float]]) -> str:
        """The text of a recording, of those that the search found, with their scores, the best first."""
        assert heard.ctc_logits is not None
        weight = self.config.rescoring_weight
        scores: dict[str, float] = {}
        for ids, score in found if weight else found[:1]:
            text = self.searcher().respelt(self._text(ids), heard.ctc_logits, _speech(heard).ctc_text)
            scores.setdefault(text, score)
        if len(scores) == 1:
            return next(iter(scores))
        first, *others = scores
        written = [0.0, *self._reader.gains(self._reader.read(first), others)]
        joint = zip(scores, scores.values(), written, strict=True)
        return max(joint, key=lambda one: one[1] + weight * one[2])[0]

    def _reworded(self, heard: Heard, text: str) -> str:
        assert heard.ctc_logits is not None
        return self.searcher().reworded(text, heard.ctc_logits)

    def _text(self, ids: list[int]) -> str:
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        for prefix in self.config.transcript_prefixes:
            text = text.removeprefix(prefix)
        return " ".join(text.split())  # a line, whatever the LLM wrote


def _speech(heard: Heard) -> Speech:
    assert heard.speech is not None
    return heard.speech
