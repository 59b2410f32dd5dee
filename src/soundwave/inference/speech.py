"""Recordings to what the speech encoder makes of them: embeddings, CTC log-probabilities, tokens and their times.

It knows nothing of prompts, of the LLM or of words.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundwave.audio import SAMPLE_RATE, AudioInput, load_audio
from soundwave.audio.vad import speech_probabilities
from soundwave.ctc.align import LikelyClasses
from soundwave.errors import SoundwaveError
from soundwave.inference.results import Speech
from soundwave.inference.word_edges import loudness_of
from soundwave.model.speech_encoder import SpeechEncoder, TimedToken
from soundwave.processing import SoundwaveProcessor

ENCODED_AT_ONCE = 8  # recordings of similar length, on a GPU; on a CPU padding costs more than a batch gains
CLASSES_KEPT = 64  # of a frame, where not all log-probabilities are kept: enough to align a text
FRAMES_AT_ONCE = 64  # in float32: 33 MB of an LLM's whole vocabulary


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
    """

    def __init__(self, encoder: SpeechEncoder, processor: SoundwaveProcessor):
        self.encoder, self.processor = encoder, processor

    def encode(
        self, audios: Sequence[AudioInput | None], keep_logprobs: bool = False
    ) -> list[Encoded | SoundwaveError]:
        """Encodes recordings in batches of similar length; the error of one that cannot be used stands in its place.

        Args:
            audios: None where a request has no recording.
            keep_logprobs: whether all CTC log-probabilities stay, not just each frame's largest: of a large
                vocabulary they take much memory.
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
        started = time.perf_counter()
        speeches = self.encode_clips(list(clips.values()), keep_logprobs)
        encoding = (time.perf_counter() - started) / max(1, len(clips))
        for i, speech in zip(clips, speeches, strict=True):
            results[i] = Encoded(speech, loading[i], encoding)
        return results

    def encode_clips(
        self, clips: Sequence[np.ndarray], keep_logprobs: bool = False,
        voices: Sequence[np.ndarray | None] | None = None,
    ) -> list[Speech]:
        """Encodes (samples,) float32 at 16 kHz, of at most 30 s each, in batches of similar length.

        Args:
            clips: of any number.
            keep_logprobs: as for `encode`.
            voices: how likely somebody speaks in each 32 ms of each, where that is known already.
        """
        voices = [None] * len(clips) if voices is None else voices
        speeches: dict[int, Speech] = {}
        by_length = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        at_once = 1 if self.encoder.device.type == "cpu" else ENCODED_AT_ONCE
        for first in range(0, len(by_length), at_once):
            rows = by_length[first : first + at_once]
            some = [clips[i] for i in rows], [voices[i] for i in rows]
            speeches |= zip(rows, self._encode(*some, keep_logprobs), strict=True)
        return [speeches[i] for i in range(len(clips))]

    def text(self, ids: Sequence[int]) -> str:
        """What CTC tokens spell."""
        return self.processor.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def ctc_logprobs(self, samples: np.ndarray) -> np.ndarray:
        """(F, C) natural log-probabilities of (T,) samples, the frames of the window's tail included."""
        features = self.processor.features([samples]).to(self.encoder.device)
        logits = self.encoder.ctc_logits(features["input_features"], features["feature_attention_mask"])
        return logits[0].float().log_softmax(-1).cpu().numpy()

    @torch.no_grad()
    def _encode(
        self, clips: list[np.ndarray], voices: list[np.ndarray | None], keep_logprobs: bool
    ) -> list[Speech]:
        features = self.processor.features(clips).to(self.encoder.device)
        output = self.encoder(features["input_features"], features["feature_attention_mask"])
        logprobs = output.ctc_logprobs() if keep_logprobs else [None] * len(clips)
        blank = self.encoder.config.blank_class
        likely = [
            None if keep_logprobs else likely_classes(row[valid], blank)
            for row, valid in zip(output.ctc_logits, output.valid, strict=True)
        ]
        columns = (clips, voices, output.kept(), output.ctc_tokens(), output.ctc_tokens(joined=True), logprobs, likely)
        return [self._speech(*row) for row in zip(*columns, strict=True)]

    def _speech(
        self, clip: np.ndarray, voice: np.ndarray | None, embeddings: Tensor, tokens: list[TimedToken],
        joined: list[TimedToken], logprobs: Tensor | None, likely: LikelyClasses | None,
    ) -> Speech:
        duration, ids = len(clip) / SAMPLE_RATE, [token.id for token in tokens]
        return Speech(
            embeddings=embeddings, ctc_token_ids=ids, token_times=_times(tokens, duration),
            ctc_text=self.text(ids),
            joined_token_ids=[token.id for token in joined], joined_token_times=_times(joined, duration),
            duration=duration, ctc_logprobs=logprobs, seconds_per_frame=self.encoder.config.seconds_per_frame,
            ctc_likely=likely, loudness=loudness_of(clip, SAMPLE_RATE),
            voice=speech_probabilities(clip) if voice is None else voice,
        )


def likely_classes(logits: Tensor, blank: int) -> LikelyClasses:
    """The log-probabilities of the likeliest classes of each frame; of (F, C) logits of any precision."""
    columns = []
    for some in logits.split(FRAMES_AT_ONCE):
        logprobs = some.float().log_softmax(-1)
        values, classes = logprobs.topk(min(CLASSES_KEPT, logprobs.shape[-1]))
        columns.append((values.cpu(), classes.cpu(), logprobs[:, blank].cpu()))
    values, classes, blanks = (torch.cat(column).numpy() for column in zip(*columns, strict=True))
    return LikelyClasses(values, classes, blanks)


def _times(tokens: Sequence[TimedToken], duration: float) -> list[tuple[float, float]]:
    """Start and end of each in seconds, inside the recording: its window is longer."""
    return [(round(min(one.start, duration), 3), round(min(one.end, duration), 3)) for one in tokens]
