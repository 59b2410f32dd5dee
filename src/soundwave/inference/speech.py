"""Recordings to what the speech encoder makes of them: embeddings, CTC log-probabilities, tokens and their times.

It knows nothing of prompts, of the LLM or of words.
"""

# N recordings, F frames, S audio positions, D LLM width, C CTC classes

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from soundwave.audio import SAMPLE_RATE, AudioInput, load_audio
from soundwave.errors import SoundwaveError
from soundwave.inference.results import Speech
from soundwave.model.speech_encoder import SpeechEncoder, SpeechOutput
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer

ENCODED_AT_ONCE = 8  # recordings of similar length: more of them need memory and are no faster on a CPU


@dataclass(frozen=True)
class Encoded:
    """A recording after the speech encoder.

    Attributes:
        speech: what is in it; None where a request brought no recording.
        loading, encoding: seconds that it took.
    """

    speech: Speech | None = None
    loading: float = 0.0
    encoding: float = 0.0

    @property
    def duration(self) -> float:
        """In seconds."""
        return 0.0 if self.speech is None else self.speech.duration


class SpeechFrontEnd:
    """Loads recordings and encodes them.

    Args:
        encoder: in evaluation mode, on its device.
        processor: the model's.
        ctc: makes text of CTC classes.
    """

    def __init__(self, encoder: SpeechEncoder, processor: SoundwaveProcessor, ctc: CtcTokenizer):
        self.encoder, self.processor, self.ctc = encoder, processor, ctc

    def encode(
        self, audios: Sequence[AudioInput | None], keep_logprobs: bool = False
    ) -> list[Encoded | SoundwaveError]:
        """Encodes recordings in batches of similar length; the error of one that cannot be used stands in its place.

        Args:
            audios: None where a request has no recording.
            keep_logprobs: whether the CTC log-probabilities stay: of a large vocabulary they take much memory.
        """
        results: list[Encoded | SoundwaveError] = [Encoded() for _ in audios]
        clips: dict[int, np.ndarray] = {}
        loading: dict[int, float] = {}
        for i, audio in enumerate(audios):
            if audio is None:
                continue
            started = time.perf_counter()
            try:
                clips[i] = load_audio(audio)
            except SoundwaveError as error:
                results[i] = error
            loading[i] = time.perf_counter() - started
        by_length = sorted(clips, key=lambda i: len(clips[i]))
        for first in range(0, len(by_length), ENCODED_AT_ONCE):
            rows = by_length[first : first + ENCODED_AT_ONCE]
            started = time.perf_counter()
            speeches = self._encode([clips[i] for i in rows], keep_logprobs)
            encoding = (time.perf_counter() - started) / len(rows)
            for i, speech in zip(rows, speeches, strict=True):
                results[i] = Encoded(speech, loading[i], encoding)
        return results

    @torch.no_grad()
    def _encode(self, clips: list[np.ndarray], keep_logprobs: bool) -> list[Speech]:
        features = self.processor.features(clips).to(self.encoder.device)
        output = self.encoder(features["input_features"], features["feature_attention_mask"])
        return [self._speech(output, row, len(clip) / SAMPLE_RATE, keep_logprobs) for row, clip in enumerate(clips)]

    def _speech(self, output: SpeechOutput, row: int, duration: float, keep_logprobs: bool) -> Speech:
        config, runs, positions = self.encoder.config, output.runs, output.positions
        step = config.seconds_per_frame

        def times(starts: list[int], ends: list[int]) -> list[tuple[float, float]]:
            return [
                (round(min(start * step, duration), 3), round(min(end * step, duration), 3))
                for start, end in zip(starts, ends, strict=True)
            ]

        exists = positions.mask[row]
        spoken = runs.mask[row] & (runs.classes[row] != config.blank_class)
        classes = runs.classes[row][spoken].tolist()
        vocabulary = config.ctc_vocabulary
        return Speech(
            embeddings=output.embeddings[row][exists],
            embedding_token_ids=output.tokens[row][exists].tolist(),
            embedding_times=times(positions.start[row][exists].tolist(), positions.end[row][exists].tolist()),
            ctc_token_ids=classes if vocabulary is None else [vocabulary[one] for one in classes],
            token_times=times(runs.start[row][spoken].tolist(), runs.end[row][spoken].tolist()),
            ctc_text=self.ctc.decode(classes),
            duration=duration,
            ctc_logprobs=output.ctc_logits[row][output.valid[row]].float().log_softmax(-1) if keep_logprobs else None,
            seconds_per_frame=step,
        )
