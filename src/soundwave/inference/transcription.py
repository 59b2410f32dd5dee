"""Writing down what is said: CTC's n best texts, among which the plain LLM may choose; or the LLM's own transcript.

A model that ships an n-gram has words in its CTC output (`ctc.BeamSearchDecoder`); the LLM then reads each of the n
best as a typed turn, in one batch, and its log-probability is added to theirs. Other models, the released one among
them, let the LLM write the transcript from the audio.
"""

# F frames, C CTC classes

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from soundwave.configuration import SoundwaveConfig
from soundwave.ctc.beam_search import BeamSearchDecoder, Hypothesis
from soundwave.ctc.lexicon import Lexicon
from soundwave.ctc.ngram import SPECIAL, Ngram
from soundwave.errors import ConfigurationError
from soundwave.inference.backends.protocol import Decoder
from soundwave.inference.gates import Gates
from soundwave.inference.options import GenerationOptions, TranscribeOptions
from soundwave.inference.prompts import PromptBuilder
from soundwave.inference.results import Source, Speech, Transcript, transcript_of
from soundwave.inference.word_times import WordTimer
from soundwave.inference_config import BeamSearchOptions, InferenceConfig, RescoringOptions
from soundwave.text.ctc_tokenizer import CtcTokenizer

# A transcript needs about 4 tokens a second; three times that, and a start, bounds a loop without cutting real speech.
TOKENS_PER_SECOND = 12
TOKENS_AT_LEAST = 32


def transcript_tokens(seconds: float) -> int:
    """The most tokens that a transcript of a recording can have."""
    return TOKENS_AT_LEAST + int(TOKENS_PER_SECOND * seconds)


def differing(first: list[int], other: list[int], read_on: int | None) -> tuple[list[int], list[int]]:
    """Two texts without the end that both have, up to `read_on` tokens of it: what comes then is as likely in both.

    >>> differing([1, 2, 3, 4, 5], [1, 9, 9, 3, 4, 5], 1)
    ([1, 2, 3], [1, 9, 9, 3])
    """
    same = 0
    while same < min(len(first), len(other)) - 1 and first[-1 - same] == other[-1 - same]:
        same += 1
    left_out = 0 if read_on is None else max(0, same - read_on)
    return first[: len(first) - left_out], other[: len(other) - left_out]


def weighed(
    hypotheses: Sequence[Hypothesis], gains: Sequence[float], search: BeamSearchOptions, again: RescoringOptions
) -> list[float]:
    """The scores of texts that a search found, with the weights that hold where the LLM has read them.

    Args:
        hypotheses: the texts.
        gains: from `Transcriber.gains`.
        search: the weights that are in their scores.
        again: those that take their place.
    """
    return [
        one.score + (again.language_weight - search.language_weight) * one.language
        + (again.word_bonus - search.word_bonus) * len(one.words) + again.llm_weight * gain
        for one, gain in zip(hypotheses, gains, strict=True)
    ]


class Transcriber:
    """Finds the words of recordings.

    Args:
        config: of the speech encoder.
        inference: the model's prompts, weights of scores, n-gram.
        folder: holds the n-gram; None where there is none.
        ctc: spells words in CTC classes.
        prompts: makes prompts for the LLM.
        decoder: runs the LLM; None: transcripts by CTC alone.
    """

    def __init__(
        self, config: SoundwaveConfig, inference: InferenceConfig, folder: Path | None, ctc: CtcTokenizer,
        prompts: PromptBuilder, decoder: Decoder | None,
    ):
        self.config, self.inference, self.folder, self.ctc = config, inference, folder, ctc
        self.prompts, self.decoder = prompts, decoder
        chosen = inference.transcribe
        self.gates = Gates(chosen.gates, config.blank_class)
        self.timer = WordTimer(ctc.pieces, config.blank_class, chosen.timing, chosen.confidence)

    @property
    def has_words(self) -> bool:
        """Whether CTC's texts are searched for words; their log-probabilities must then be kept."""
        return self.inference.transcribe.ngram is not None and self.folder is not None

    def transcribe(self, speeches: Sequence[Speech], options: TranscribeOptions) -> list[Transcript]:
        """Transcripts of several recordings, each the one that it gets alone.

        Raises:
            ConfigurationError: the LLM is asked for, but not loaded; or hot words, where there is no search for words.
        """
        with_llm = self._with_llm(options)
        source: Source
        if self.has_words:
            hypotheses = self._hypotheses(speeches, options, self.inference.transcribe.rescoring.nbest)
            rated = [self._rated(some) if with_llm else [(one.text, one.score) for one in some] for some in hypotheses]
            source = "ctc+llm" if with_llm else "ctc"
            return [self._transcript(*pair, source) for pair in zip(rated, speeches, strict=True)]
        if options.hotwords:
            raise ConfigurationError(
                f"hotwords={list(options.hotwords)!r} need a model with an n-gram, which this one lacks; leave them "
                "out."
            )
        texts = self._written(speeches) if with_llm else [speech.ctc_text for speech in speeches]
        source = "llm" if with_llm else "ctc"
        return [self._transcript([(text, 0.0)], speech, source) for text, speech in zip(texts, speeches, strict=True)]

    def _transcript(self, rated: Sequence[tuple[str, float]], speech: Speech, source: Source) -> Transcript:
        """Of the best of some texts, which comes first; the others tell how sure its words are."""
        text, source = self.gates.passed(rated[0][0], speech, source)
        words = self.timer.words(text, speech, rated if self.has_words else ())
        return transcript_of(text, speech, source, words)

    def source(self, options: TranscribeOptions) -> Source:
        """Where the words of transcripts come from."""
        if not self._with_llm(options):
            return "ctc"
        return "ctc+llm" if self.has_words else "llm"

    def _with_llm(self, options: TranscribeOptions) -> bool:
        if options.llm and self.decoder is None:
            raise ConfigurationError("llm=True, but no LLM is loaded; load the model with backend='torch'.")
        wanted = self.inference.transcribe.llm if options.llm is None else options.llm
        return wanted and self.decoder is not None

    def _hypotheses(self, speeches: Sequence[Speech], options: TranscribeOptions, nbest: int) -> list[list[Hypothesis]]:
        logprobs = []
        for speech in speeches:
            assert speech.ctc_logprobs is not None  # kept wherever `has_words`
            logprobs.append(speech.ctc_logprobs.cpu().numpy())
        return self.search.decode(logprobs, nbest, options.hotwords)

    @cached_property
    def search(self) -> BeamSearchDecoder:
        """The search for words, where `has_words`; made when first needed: tens of thousands of words take a moment."""
        options = self.inference.transcribe
        assert self.folder is not None
        assert options.ngram is not None
        ngram = Ngram.load(self.folder / options.ngram)
        words = [word for word in ngram.words if word not in SPECIAL]
        if options.words is not None:
            words = (self.folder / options.words).read_text(encoding="utf-8").split()
        lexicon = Lexicon(words, [*self.ctc.pieces, ""])  # the last class is the blank
        return BeamSearchDecoder(lexicon, ngram, self.config.blank_class, options.search)

    def _rated(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[str, float]]:
        """Texts and scores, the one first that CTC, n-gram and LLM together find likeliest; the LLM reads typed turns.

        Those that the search finds far less likely are left out.
        """
        search, again = self.inference.transcribe.search, self.inference.transcribe.rescoring
        hypotheses = [one for one in hypotheses if one.score >= hypotheses[0].score - again.within]
        scores = weighed(hypotheses, self.gains([one.text for one in hypotheses]), search, again)
        rated = [(one.text, score) for one, score in zip(hypotheses, scores, strict=True)]
        return sorted(rated, key=lambda pair: -pair[1])

    def gains(self, texts: Sequence[str]) -> list[float]:
        """How much likelier the LLM finds each text than the first, in nats; it reads them as typed turns."""
        if len(texts) < 2:
            return [0.0] * len(texts)
        assert self.decoder is not None
        prompt, (first, *others) = self.prompts.typed(list(texts))
        pairs = [differing(first, other, self.inference.transcribe.rescoring.read_on) for other in others]
        read = self.decoder.score(prompt, [text for pair in pairs for text in pair])
        return [0.0, *(other - best for best, other in zip(read[::2], read[1::2], strict=True))]

    def _written(self, speeches: Sequence[Speech]) -> list[str]:
        """What the LLM writes, greedily, for each recording; nothing where CTC reads nothing."""
        assert self.decoder is not None
        texts = [""] * len(speeches)
        spoken = [i for i, speech in enumerate(speeches) if speech.ctc_token_ids]
        if not spoken:
            return texts
        limits = [transcript_tokens(speeches[i].duration) for i in spoken]
        request = self.inference.transcribe_prompt
        prompts = [self.prompts.audio(request, speeches[i].embeddings.float().cpu().numpy()) for i in spoken]
        drafts = [self.prompts.draft(speeches[i].ctc_text) for i in spoken]
        rows: list[list[int]] = [[] for _ in spoken]
        options = GenerationOptions(temperature=0, max_new_tokens=max(limits))
        for token in self.decoder.generate(prompts, options, drafts):
            rows[token.row].append(token.id)
        for i, ids, limit in zip(spoken, rows, limits, strict=True):
            texts[i] = self._cleaned(ids[:limit])
        return texts

    def _cleaned(self, ids: list[int]) -> str:
        text = self.prompts.processor.tokenizer.decode(ids, skip_special_tokens=True)
        for prefix in self.inference.transcript_prefixes:
            text = text.removeprefix(prefix)
        return " ".join(text.split())  # a line, whatever the LLM wrote
