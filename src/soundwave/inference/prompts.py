"""Requests to decoder prompts: a model's chat format around typed text, a transcript, or audio embeddings."""

# S audio positions, D LLM width

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from soundwave.errors import ConfigurationError
from soundwave.inference.backends.protocol import Prompt, PromptSegment
from soundwave.inference_config import InferenceConfig
from soundwave.processing import SoundwaveProcessor
from soundwave.text.prompt import Turn
from soundwave.text.tokenizing import token_ids

ALONE_CAPITAL = re.compile(r"\bi\b")  # English, as ASKING is
ASKING = frozenset(
    ["who", "what", "where", "when", "why", "how", "which", "is", "are", "do", "does", "did", "can", "could", "will"]
)


def as_written(words: str) -> str:
    """English words as people write them: a capital, "I", a mark at the end. A text that has these is left as it is.

    CTC and its search know no marks, and a language model reads "where is london" as something less than a question.
    """
    if not words:
        return words
    written = words[0].upper() + ALONE_CAPITAL.sub("I", words[1:])
    if written[-1].isalnum():
        written += "?" if words.split()[0].lower() in ASKING else "."
    return written


class PromptBuilder:
    """Makes prompts in the format of one model.

    Args:
        processor: the model's.
        inference: its prompts, and whether text alone is answered with the LoRA.
        audio_token_id: the placeholder of a recording.
    """

    def __init__(self, processor: SoundwaveProcessor, inference: InferenceConfig, audio_token_id: int | None):
        self.processor, self.inference, self.audio_token_id = processor, inference, audio_token_id

    def audio(self, prompt: str, embeddings: np.ndarray) -> Prompt:
        """A recording, its (S, D) embeddings, and what to do with it."""
        return self.conversation([Turn("user", (None, prompt))], [embeddings])

    def text(self, text: str) -> Prompt:
        """A typed turn."""
        return self.conversation([Turn("user", (text,))])

    def conversation(self, turns: Sequence[Turn], recordings: Sequence[np.ndarray] = ()) -> Prompt:
        """Turns of several roles, up to where the assistant answers.

        Args:
            turns: texts, and None where a recording stands.
            recordings: the (S, D) embeddings of each.
        """
        ids = self._ids(turns)
        places = [i for i, token in enumerate(ids) if token == self.audio_token_id] if recordings else []
        segments: list[PromptSegment] = []
        start = 0
        for place, embeddings in zip(places, recordings, strict=True):
            segments += [ids[start:place], embeddings]
            start = place + 1
        return Prompt((*segments, ids[start:]), bool(recordings) or self.inference.text_only == "adapted")

    def written(self, words: str) -> str:
        """Words that were found, as people write them; of a model that hears other languages too, as they are."""
        return as_written(words) if set(self.inference.languages) == {"en"} else words

    def transcript(self, words: str, prompt: str | None) -> Prompt:
        """The words of a recording and what to do with them; without a prompt they are the turn themselves."""
        return self.text(words if prompt is None else f"{words}\n\n{prompt}")

    def typed(self, texts: list[str]) -> tuple[Prompt, list[list[int]]]:
        """What the chat format writes before a person's text, and for each text its tokens and the end of its turn."""
        before, end = self._around_text
        tokenizer = self.processor.tokenizer
        ids = [token_ids(tokenizer, text) for text in texts]
        return Prompt((before,), self.inference.text_only == "adapted"), [[*one, *end] for one in ids]

    def draft(self, words: str) -> list[int]:
        """The likely answer of an LLM that writes down what is said: the words that CTC reads, as people write them.

        After the prefix that the model was trained to say, with a capital, a mark, and the end of the turn.
        """
        if not words:
            return []
        tokenizer = self.processor.tokenizer
        written = "".join(self.inference.transcript_prefixes[:1]) + as_written(words)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return [*token_ids(tokenizer, written), *end]

    @cached_property
    def _around_text(self) -> tuple[list[int], list[int]]:
        """The tokens before a typed text, and the first one after it: what follows is the same for every text."""
        left, right = (self._ids([Turn("user", (text,))]) for text in ("a", "b"))
        at = next(i for i, (one, other) in enumerate(zip(left, right, strict=True)) if one != other)
        if at == 0:
            raise ConfigurationError(
                "The chat template begins with the text itself, so the LLM cannot say how likely a text is; "
                "transcribe with llm=False."
            )
        return left[:at], left[at + 1 : at + 2]

    def _ids(self, turns: Sequence[Turn]) -> list[int]:
        parts = [
            [{"type": "audio"} if part is None else {"type": "text", "text": part} for part in turn.parts]
            for turn in turns
        ]
        said = [{"role": turn.role, "content": some} for turn, some in zip(turns, parts, strict=True)]
        return self.processor.tokenize(said).ids
