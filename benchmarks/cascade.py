"""What a chain of two models makes of spoken questions: Whisper base writes them down, mini's LLM answers the text.

The same encoder and the same language model as in mini, with Whisper's own decoder between them in place of what this
project trains. An anchor for the task `questions` of `soundwave eval`: whoever hears as well as Whisper base, and
answers what was heard as if it had been typed, gets this share right.

    python recipes/mini/whisper_folder.py --out whisper-base
    python benchmarks/cascade.py dev-questions/manifest.jsonl --whisper whisper-base --json cascade.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from faster_whisper import WhisperModel

import soundwave
from soundwave.cli.display import count_progress
from soundwave.errors import DataError
from soundwave.evaluation.clips import Clip, read_clips
from soundwave.evaluation.provenance import command_line, commit, machine, settings_of, versions
from soundwave.evaluation.replies import answer_part
from soundwave.evaluation.tasks import ANSWER_TOKENS
from soundwave.inference.engine import Engine
from soundwave.text.metrics import NORMALISER, is_answered, word_errors


def heard(clips: Sequence[Clip], whisper: Path, beam_size: int) -> list[str]:
    """What Whisper's own decoder writes, as it comes: cased, with punctuation and digits."""
    model = WhisperModel(str(whisper), device="cpu", compute_type="int8")
    texts: list[str] = []
    with count_progress("listening", quiet=False) as progress:
        for clip in clips:
            segments, _ = model.transcribe(str(clip.path), language="en", beam_size=beam_size)
            texts.append(" ".join(segment.text.strip() for segment in segments))
            progress(len(texts), len(clips))
    return texts


def cascade(engine: Engine, clips: Sequence[Clip], texts: Sequence[str]) -> dict[str, Any]:
    """How many of the texts' answers, greedy and typed, are right, and how many of their words were wrong."""
    replies = engine.ask_batch([(None, text) for text in texts], temperature=0, max_new_tokens=ANSWER_TOKENS)
    right = sum(
        is_answered(answer_part(reply.text, clip.text), clip.answers)  # as `soundwave eval --task questions` counts
        for reply, clip in zip(replies, clips, strict=True)
    )
    return {
        "clips": len(clips), "right": right, "score": right / len(clips),
        "word_error_rate_of_heard": word_errors([clip.text or "" for clip in clips], texts).rate,
        "replies": [
            {"audio": clip.name, "heard": text, "reply": reply.text}
            for clip, text, reply in zip(clips, texts, replies, strict=True)
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="spoken questions: audio, text and answers on each line")
    parser.add_argument("--whisper", type=Path, required=True, help="the folder that whisper_folder.py made")
    parser.add_argument("--beam-size", type=int, default=5, help="Whisper's beams (%(default)s)")
    parser.add_argument("--model", default="mini", help="whose language model answers (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep figures and replies")
    chosen = parser.parse_args(arguments)
    if not (chosen.whisper / "model.bin").is_file():
        parser.error(f"{chosen.whisper} holds no model.bin; make the folder with recipes/mini/whisper_folder.py")
    try:
        clips = read_clips([chosen.manifest], ("audio", "text", "answers"))
    except DataError as error:
        parser.error(str(error))
    engine = soundwave.load(chosen.model)
    result = cascade(engine, clips, heard(clips, chosen.whisper, chosen.beam_size))
    wrong = f"{100 * result['word_error_rate_of_heard']:.1f} % of the words it heard are wrong"
    print(f"Whisper base, then the language model: {result['right']} of {result['clips']} right; {wrong}")
    if chosen.json:
        about = {
            "measured": "questions answered by Whisper base's own decoder and the language model, typed",
            "beam_size": chosen.beam_size, "manifest": clips[0].manifest.sha256, "normaliser": NORMALISER,
            "weights": settings_of(engine)["weights"], "commit": commit(), "machine": machine("cpu"),
            "versions": versions(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command_line(sys.argv[1:]).replace("soundwave ", "python benchmarks/cascade.py ", 1),
        }
        chosen.json.write_text(json.dumps({**result, **about}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
