"""Recordings to what the speech front end makes of them: embeddings, CTC's scores, tokens and their times."""

# S audio positions, D LLM width, F frames, C CTC classes

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from soundwave.audio import SAMPLE_RATE, AudioInput, load_audio
from soundwave.inference.results import Speech
from soundwave.model.soundwave import SoundwaveForConditionalGeneration, SpeechOutput
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer


@dataclass(frozen=True)
class Heard:
    """A recording after the front end; without `speech`, a request that brought none.

    Attributes:
        speech: what the engine's users get to see.
        loading, encoding: seconds that it took.
        ctc_logits: (F, C) of the frames that exist, in models that search for words.
    """

    speech: Speech | None
    loading: float
    encoding: float
    ctc_logits: Tensor | None = None

    @property
    def duration(self) -> float:
        """In seconds."""
        return 0.0 if self.speech is None else self.speech.duration


class Hearing:
    """The front end of one model.

    Args:
        model: in evaluation mode, on its device.
        processor: the model's.
        ctc: makes text of CTC classes.
    """

    def __init__(self, model: SoundwaveForConditionalGeneration, processor: SoundwaveProcessor, ctc: CtcTokenizer):
        self.model, self.processor, self.ctc = model, processor, ctc

    def of(self, audios: Sequence[AudioInput | None]) -> list[Heard]:
        """Loads recordings and hears them in one batch.

        Raises:
            AudioError: one of them cannot be used, or is over 30 s long.
        """
        started = time.perf_counter()
        clips: list[np.ndarray | None] = [None if audio is None else load_audio(audio) for audio in audios]
        loading = (time.perf_counter() - started) / max(1, len(audios))
        started = time.perf_counter()
        heard = iter(self._encode([clip for clip in clips if clip is not None]))
        encoding = (time.perf_counter() - started) / max(1, len(audios))
        return [
            Heard(None, 0.0, 0.0) if clip is None else replace(next(heard), loading=loading, encoding=encoding)
            for clip in clips
        ]

    @torch.no_grad()
    def _encode(self, clips: list[np.ndarray]) -> list[Heard]:
        if not clips:
            return []
        features = self.processor.features(clips).to(self.model.device)
        output = self.model.encode_speech(features["input_features"], features["feature_attention_mask"])
        kept = output.kept()
        return [
            Heard(self._speech(output, i, kept[i], len(clip) / SAMPLE_RATE), 0.0, 0.0, self._logits(output, i))
            for i, clip in enumerate(clips)
        ]

    def _logits(self, output: SpeechOutput, row: int) -> Tensor | None:
        return output.ctc_logits[row][output.valid[row]] if self.model.config.joint_ctc_weight else None

    def _speech(self, output: SpeechOutput, row: int, embeddings: Tensor, duration: float) -> Speech:
        config, runs = self.model.config, output.runs
        tokens: list[int] = []
        times: list[tuple[float, float]] = []
        columns = (runs.classes[row], runs.start[row], runs.end[row], runs.mask[row])
        for token, start, end, exists in zip(*(column.tolist() for column in columns), strict=True):
            if exists and token != config.blank_class:
                tokens.append(token)
                step = config.seconds_per_frame
                times.append((round(min(start * step, duration), 3), round(min(end * step, duration), 3)))
        ids = tokens if config.ctc_vocabulary is None else [config.ctc_vocabulary[token] for token in tokens]
        return Speech(embeddings, ids, times, duration, self.ctc.decode(tokens))
