"""Real speech to a bank of units (`data/units.py`): a model's aligned frames, cut at the tokens of the transcripts.

Knows nothing about what the units are for.
"""

# F aligned frames, C CTC classes, D LLM width

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import torch

from soundwave.audio import SAMPLE_RATE
from soundwave.ctc.align import Lattice, align
from soundwave.data.example import Example
from soundwave.data.manifests import Progress, read_manifest
from soundwave.data.probe import samples_of
from soundwave.data.units import writing_bank
from soundwave.errors import AudioError, DataError
from soundwave.model.shrink import collapse
from soundwave.model.speech_encoder import SpeechEncoder, alignment_mark
from soundwave.model.whisper import encode_window
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer

MAX_ERROR = 0.8  # of a clip's words that CTC may get wrong: beyond it, text and sound hardly belong together


@dataclass
class Banked:
    """What a run did: clips and units in the bank, clips left out, seconds of speech, and the clips' CTC error rate."""

    clips: int = 0
    units: int = 0
    dropped: int = 0
    seconds: float = 0.0
    error: float = 0.0


@dataclass(frozen=True)
class Heard:
    """A clip as the alignment adapter gives it: (F, D) frames, and (F, C) CTC log-probabilities."""

    frames: np.ndarray
    logprobs: np.ndarray


def make_bank(
    manifests: Iterable[str | Path], out: Path, encoder: SpeechEncoder, processor: SoundwaveProcessor, *,
    hours: float | None = None, feature_dropout: float = 0.0, max_error: float = MAX_ERROR, seed: int = 0,
    overwrite: bool = False,
    on_dropped: Callable[[str, str], None] = lambda name, why: None, progress: Progress | None = None,
) -> Banked:
    """Cuts the clips of manifests into units.

    Args:
        manifests: rows with one recording and a transcript; others are passed over.
        out: the bank's folder, new or empty.
        encoder: in evaluation mode; in float32.
        processor: the model's.
        hours: stop at this much speech; clips come in random order.
        feature_dropout: the share of the encoder's channels that are set to zero, others in each clip, as in training.
        max_error: clips with a larger share of wrong words are left out.
        seed: of that order, and of those channels.
        overwrite: what is there may be replaced.
        on_dropped: told of clips that are left out, and why.
        progress: called after each clip with (clips done, clips in all).

    Raises:
        DataError: no clip can be used.
        WriteError: the bank cannot be written.
    """
    config = encoder.config
    ctc = CtcTokenizer(processor.tokenizer, config.ctc_vocabulary)
    examples = [example for manifest in manifests for example in read_manifest(manifest) if _is_usable(example)]
    random.Random(seed).shuffle(examples)
    starts = [number for number, piece in enumerate(ctc.pieces) if piece.startswith(" ")]
    done, said, heard_as = Banked(), list[str](), list[str]()
    mark = alignment_mark(encoder.state_dict().items(), config)
    width = config.text_config.hidden_size
    with writing_bank(out, mark, width, config.seconds_per_frame, starts, overwrite) as bank:
        for number, example in enumerate(examples, 1):
            try:
                samples = samples_of(example.audios[0])
                tokens = ctc.encode(example.transcript or "")
                heard = hear(encoder, processor, samples, feature_dropout, np.random.default_rng([seed, number]))
                text = ctc.decode(collapse(heard.logprobs.argmax(-1).tolist(), config.blank_class))
                sizes = _sizes(tokens, heard.logprobs, config.blank_class, text, example.transcript or "", max_error)
            except (AudioError, DataError) as error:
                done.dropped += 1
                on_dropped(example.where, str(error))
                continue
            bank.add(tokens, sizes, heard.frames)
            said.append(example.transcript or "")
            heard_as.append(text)
            done.seconds += len(samples) / SAMPLE_RATE
            if progress:
                progress(number, len(examples))
            if hours is not None and done.seconds >= hours * 3600:
                break
        done.clips, done.units = bank.clips, bank.units
        if not done.clips:
            raise DataError("No clip has one recording and a transcript that fits it; there is nothing to cut.")
    done.error = jiwer.wer(said, heard_as)
    return done


@torch.no_grad()
def hear(
    encoder: SpeechEncoder, processor: SoundwaveProcessor, samples: np.ndarray, feature_dropout: float = 0.0,
    draw: np.random.Generator | None = None,
) -> Heard:
    """What the alignment adapter makes of (samples,) at 16 kHz, with some of the encoder's channels set to zero."""
    features = processor.features([samples]).to(encoder.device)
    frames = encode_window(encoder.audio_tower, features["input_features"].to(encoder.audio_tower.dtype), None)
    if feature_dropout:
        assert draw is not None
        kept = (draw.random(frames.shape[-1]) >= feature_dropout) / (1.0 - feature_dropout)
        frames = frames * torch.from_numpy(kept).to(frames)
    output = encoder(encoder_frames=frames)
    return Heard(output.aligned[0].float().cpu().numpy(), output.ctc_logprobs()[0].cpu().numpy())


def cut_frames(tokens: Sequence[int], logprobs: np.ndarray, blank: int) -> list[int] | None:
    """How many frames each token has, by forced alignment; the blanks between two are shared by them.

    None where there are too few frames for the tokens.
    """
    lattice = Lattice([(place, place + 1, token) for place, token in enumerate(tokens)], [len(tokens)])
    aligned = align(logprobs[:, lattice.classes].astype(np.float64), logprobs[:, blank].astype(np.float64), lattice)
    if aligned is None:
        return None
    (found,) = aligned
    cuts = [(before.last + after.first + 1) // 2 for before, after in pairwise(found)]
    return [last - first for first, last in pairwise([0, *cuts, len(logprobs)])]


def _sizes(
    tokens: Sequence[int], logprobs: np.ndarray, blank: int, text: str, transcript: str, max_error: float
) -> list[int]:
    error = jiwer.wer(transcript, text)
    if error > max_error:
        raise DataError(f"CTC gets {error:.0%} of its words wrong, more than {max_error:.0%}")
    sizes = cut_frames(tokens, logprobs, blank)
    if sizes is None:
        raise DataError("it is too short for its text")
    return sizes


def _is_usable(example: Example) -> bool:
    return bool(example.transcript) and len(example.audios) == 1
