"""An evaluation as the JSON that is kept in `docs/results/`, and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.table import Table

from soundwave.evaluation.clips import Clip
from soundwave.evaluation.provenance import command_line, commit, machine, versions
from soundwave.evaluation.runner import Evaluation
from soundwave.evaluation.served import Served
from soundwave.evaluation.tasks import Prediction
from soundwave.files import write_json
from soundwave.inference.engine import Engine
from soundwave.text.metrics import error_measure, normaliser_name


def report(
    evaluation: Evaluation, engine: Engine | Served, clips: Sequence[Clip], settings: Mapping[str, Any], *,
    batch_size: int, arguments: Sequence[str], by: str | None = None,
) -> dict[str, Any]:
    """The score with all that decides it.

    Args:
        evaluation: from `evaluate`.
        engine: the model that was asked.
        clips: all that it was to be asked about.
        settings: from `settings_of`, or `Served.settings`; `cascade`, where another decoder transcribed, is from
            `WhisperCascade.settings`.
        batch_size: clips that were asked at once.
        arguments: of the command line, after `soundwave`.
        by: the field that gave the clips their groups, if any; then each group's score is told, the worst first.
    """
    task, asking, about = evaluation.task, evaluation.asking, engine.describe()
    installed = versions()
    languages = [clip.language for clip in clips]
    return {
        "task": task.name.value,
        "measure": task.measure.replace("word error rate", error_measure(languages)),
        **_scored(evaluation, evaluation.predictions),
        "lower_is_better": task.lower_is_better,
        "failed": [
            {"audio": failure.clip.name, "reason": _without_folder(failure.reason, failure.clip)}
            for failure in evaluation.failures
        ],
        "manifests": _by_manifest(evaluation, clips),
        **({} if by is None else {"by": {"field": by, "groups": _by_group(evaluation)}}),
        "prompt": _prompt(evaluation, engine),
        "cascade": settings.get("cascade"),
        "decoding": {
            "method": "the server's own" if "served" in settings else _method(
                evaluation, engine, settings.get("cascade")
            ),
            "via": asking.via, "llm": asking.llm,
            "max_new_tokens": asking.max_new_tokens or "by the length of the clip",
        },
        "normaliser": None if task.name.value == "translate" else normaliser_name(languages),
        "model": {"name": Path(about["model"]).name, "parameters": about["parameters"], "weights": settings["weights"]},
        "commit": commit(),
        "code_sha256": settings["code_sha256"],
        "dtype": about["dtype"],
        "machine": machine(about["device"]) if about["device"] else {"device": None, "name": "a server"},
        "versions": installed,
        "batch_size": batch_size,
        "speed": _speed(evaluation),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(arguments),
    }


def _prompt(evaluation: Evaluation, engine: Engine | Served) -> str:
    """What every clip is asked, or what is asked in it."""
    said = evaluation.predictions[0].said if evaluation.predictions else {}
    if not evaluation.task.listens:
        return "the text of the question, without audio"
    if evaluation.asking.prompt is not None:
        return evaluation.asking.prompt
    if evaluation.task.asking.max_new_tokens:
        return engine.default_prompt if said.get("via") == "audio" else "what is said"
    return engine.inference.transcribe_prompt if said.get("source") == "llm" else "a transcript"


def _method(evaluation: Evaluation, engine: Engine | Served, cascade: Mapping[str, Any] | None) -> str:
    """How the words were chosen."""
    said = evaluation.predictions[0].said if evaluation.predictions else {}
    if cascade is not None:
        search = f"Whisper's own beam search ({cascade['beam_size']} beams)"
        return search if "source" in said else f"{search}; its transcript is answered greedily, as if typed"
    settings = engine.inference.transcribe
    rescoring = settings.rescoring
    search = (
        f"CTC beam search with {settings.ngram} ({settings.search.beams} beams, weight "
        f"{settings.search.language_weight:g}, bonus {settings.search.word_bonus:g})"
    )
    ways = {
        "ctc": search if settings.ngram else "greedy CTC",
        "ctc+llm": f"{search}, the plain LLM's choice of {rescoring.nbest} (weight {rescoring.llm_weight:g}, "
        f"n-gram {rescoring.language_weight:g}, bonus {rescoring.word_bonus:g})",
        "llm": "greedy",
    }
    if evaluation.task.name.value == "ctc":
        return "greedy CTC"
    if "source" in said:
        return ways[said["source"]]
    if said.get("via") == "transcript":
        way = ("ctc+llm" if settings.ngram else "llm") if settings.llm else "ctc"
        return f"{ways[way]}; the transcript is answered greedily, as if typed"
    return "greedy"


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the JSON whole or not at all."""
    write_json(path, result)


def table(result: Mapping[str, Any]) -> Table:
    """One line for each manifest and, of several, one for all; then one for each group, if there are any."""
    shown = Table(title=f"{result['model']['name']} · {result['task']} · {result['measure']}")
    shown.add_column("manifest")
    also = list(result["also"])
    counted = [name for name in result["counts"] if name not in also]
    for name in ("score", *also, *counted, "clips", "audio"):
        shown.add_column(name.replace("_", " "), justify="right")
    rows = [(one["name"], one) for one in result["manifests"]]
    if len(rows) > 1:
        rows.append(("all", result))
    if "by" in result:
        rows += [(f"{result['by']['field']} {one['name']}", one) for one in result["by"]["groups"]]
    for name, row in rows:
        figures = [_percent(row["score"]), *(_percent(row["also"].get(key)) for key in also)]
        counts = [str(row["counts"].get(key, "")) for key in counted]
        shown.add_row(name, *figures, *counts, str(row["clips"]), f"{row['audio_seconds'] / 60:.1f} min")
    speed = result["speed"]
    told = [f"prompt: {result['prompt']}"]
    if result["cascade"] is not None:
        told.append(f"cascade: {result['cascade']['whisper']} transcribes")
    if speed["times_real_time"] is not None:
        told.append(
            f"{speed['times_real_time']:.1f} times real time (RTFx) in batches of {result['batch_size']} on "
            f"{result['machine']['name']}, {result['dtype']}"
        )
    shown.caption = "\n".join(told)
    return shown


def _scored(evaluation: Evaluation, predictions: Sequence[Prediction]) -> dict[str, Any]:
    score = evaluation.task.score(predictions) if predictions else None
    signatures = {"signatures": score.signatures} if score is not None and score.signatures else {}
    return {
        "score": None if score is None else score.value,
        "counts": {} if score is None else score.counts,
        "also": {} if score is None else score.also,
        **signatures,
        "clips": len(predictions),
        "audio_seconds": round(sum(prediction.seconds for prediction in predictions), 3),
    }


def _by_manifest(evaluation: Evaluation, clips: Sequence[Clip]) -> list[dict[str, Any]]:
    manifests = {clip.manifest: None for clip in clips}  # in their order
    return [
        {"name": manifest.name, "sha256": manifest.sha256}
        | _scored(evaluation, [one for one in evaluation.predictions if one.clip.manifest == manifest])
        for manifest in manifests
    ]


def _by_group(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Clips whose rows do not have the field are a group too, whose name is null."""
    held: dict[str | None, list[Prediction]] = {}
    for prediction in evaluation.predictions:
        held.setdefault(prediction.clip.group, []).append(prediction)
    groups = [{"name": name} | _scored(evaluation, predictions) for name, predictions in held.items()]
    return sorted(groups, key=lambda group: group["score"], reverse=evaluation.task.lower_is_better)


def _speed(evaluation: Evaluation) -> dict[str, float | int | None]:
    """Of this run's own clips: those that an earlier run had asked about took no time now."""
    spent = evaluation.spent_seconds
    audio = evaluation.asked_seconds
    return {
        "clips": evaluation.asked_clips,
        "audio_seconds": round(audio, 3),
        "seconds": round(spent, 3),
        "times_real_time": round(audio / spent, 2) if audio and spent else None,
    }


def _without_folder(reason: str, clip: Clip) -> str:
    reason = reason.replace(clip.manifest.path, clip.manifest.name)
    return reason if clip.span is None else reason.replace(clip.span.path, clip.name)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"
