"""How like real speech is what a bank of units says? Both say the same texts, and the model hears both.

    soundwave data units SPEECH... --model mini --out BANK
    python benchmarks/simulated_speech.py MANIFEST BANK --model mini --json simulated.json

The manifest's clips should be none of the bank's, of other speakers and of the same kind. Clips that a bank would leave
out, since CTC gets most of their words wrong, are left out here too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch

import soundwave
from soundwave.data.example import Example
from soundwave.data.manifests import read_manifest
from soundwave.data.probe import samples_of
from soundwave.data.units import UnitBank
from soundwave.datatools.units import MAX_ERROR, hear
from soundwave.model.shrink import collapse
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.text.ctc_tokenizer import CtcTokenizer


@dataclass(frozen=True)
class Listened:
    """What the model makes of one clip: its greedy CTC text, each frame's entropy in nats, and counts."""

    text: str
    entropy: np.ndarray
    spoken: np.ndarray
    positions: int


@torch.no_grad()
def listened(encoder: SpeechEncoder, ctc: CtcTokenizer, frames: np.ndarray) -> Listened:
    """(F, D) aligned frames through CTC and shrinking."""
    output = encoder(aligned_frames=torch.from_numpy(frames).float()[None])
    logprobs = output.ctc_logprobs()[0]
    path, blank = logprobs.argmax(-1), encoder.config.blank_class
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    text = ctc.decode(collapse(path.tolist(), blank))
    return Listened(text, entropy.numpy(), (path != blank).numpy(), int(output.positions.mask.sum()))


def figures(transcripts: Sequence[str], clips: Sequence[Listened]) -> dict[str, float]:
    """Of all clips together."""
    errors = jiwer.process_words(list(transcripts), [clip.text for clip in clips])
    words = errors.hits + errors.substitutions + errors.deletions
    entropy = np.concatenate([clip.entropy[clip.spoken] for clip in clips])
    found = {
        "word_error_rate": errors.wer, "substitutions": errors.substitutions / words,
        "deletions": errors.deletions / words, "insertions": errors.insertions / words,
        "character_error_rate": float(jiwer.cer(list(transcripts), [clip.text for clip in clips])),
        "entropy": float(entropy.mean()), "entropy_median": float(np.median(entropy)),
        "entropy_p90": float(np.quantile(entropy, 0.9)),
        "positions_per_word": sum(clip.positions for clip in clips) / words,
        "frames_per_word": sum(len(clip.entropy) for clip in clips) / words,
    }
    return {name: round(value, 4) for name, value in found.items()}


def compared(
    examples: Sequence[Example], bank: UnitBank, encoder: SpeechEncoder, ctc: CtcTokenizer,
    real: Callable[[Example], np.ndarray], seeds: int,
) -> dict[str, Any]:
    """The figures of real speech, and of each seed's."""
    pairs = [(example, ctc.encode(example.transcript or "")) for example in examples if example.transcript]
    pairs = [(example, tokens) for example, tokens in pairs if tokens and not bank.lacks(tokens)]
    as_real = [(example, tokens, listened(encoder, ctc, real(example))) for example, tokens in pairs]
    kept = [one for one in as_real if jiwer.wer(one[0].transcript or "", one[2].text) <= MAX_ERROR]
    transcripts = [example.transcript or "" for example, _, _ in kept]
    rows = {"real": figures(transcripts, [clip for _, _, clip in kept])}
    for seed in range(1, seeds + 1):
        said = [listened(encoder, ctc, bank.say(tokens, f"{seed}/{n}")) for n, (_, tokens, _) in enumerate(kept)]
        rows[f"simulated, seed {seed}"] = figures(transcripts, said)
    return {"clips": len(kept), "words": sum(len(text.split()) for text in transcripts), "speech": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="recordings with their texts")
    parser.add_argument("bank", type=Path, help="what `soundwave data units` made")
    parser.add_argument("--model", default="mini", help="the bank's model (%(default)s)")
    parser.add_argument("--clips", type=int, help="at most so many")
    parser.add_argument("--seeds", type=int, default=2, help="say each text so often (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    chosen = parser.parse_args(arguments)
    engine = soundwave.load(chosen.model, device="cpu", dtype="float32", backend="none")
    encoder, processor, bank = engine.encoder, engine.processor, UnitBank(chosen.bank)
    ctc = CtcTokenizer(processor.tokenizer, encoder.config.ctc_vocabulary)
    examples = [example for example in read_manifest(chosen.manifest) if len(example.audios) == 1][: chosen.clips]

    def real(example: Example) -> np.ndarray:
        return hear(encoder, processor, samples_of(example.audios[0])).frames

    result = compared(examples, bank, encoder, ctc, real, chosen.seeds)
    print(f"{result['clips']} clips, {result['words']} words")
    for name, row in result["speech"].items():
        print(
            f"{name:20} {100 * row['word_error_rate']:5.1f} % of the words wrong, entropy {row['entropy']:.3f} "
            f"(90 % below {row['entropy_p90']:.3f}), {row['positions_per_word']:.3f} positions and "
            f"{row['frames_per_word']:.1f} frames a word"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
