"""How a model is asked and how it writes down what is said: `inference.json` beside `config.json`.

Prompts, and the weights of scores; nothing here shapes weights of the model (`configuration.py`). Knows no tensors.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from soundwave.errors import CheckpointError, ConfigurationError, SoundwaveError
from soundwave.files import write_json
from soundwave.settings import check_settings, setting

FILE_NAME = "inference.json"
LARGEST_JSON_BYTES = 64 << 20  # a config.json of a large CTC vocabulary has 2 MB

PromptFormat = Literal["released", "chat_template"]
TextOnly = Literal["adapted", "plain"]
DefaultVia = Literal["audio", "transcript"]

MOVED = (  # what config.json held before there was an inference.json
    "prompt_format", "text_only", "audio_system_prompt", "transcribe_prompt", "answer_prompt", "default_prompt",
    "transcript_prefixes",
)
DELETED = ("joint_ctc_weight", "word_list", "rescoring_weight", "rewording_weight")  # of a search that is no more
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BeamSearchOptions:
    """How the CTC beam search weighs and prunes. Scores are in nats: natural logarithms of probabilities.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    beams: int = setting(128, least=1, help="Texts kept after each frame.")
    language_weight: float = setting(1.0, least=0, help="Factor of the n-gram's log-probability.")
    word_bonus: float = setting(3.0, help="For each word, against the n-gram's liking for short texts.")
    unknown_word: float | None = setting(
        3.0, least=0, help="Cost of a word of no list beside the n-gram's for <unk>; none: no such words."
    )
    unknown_letter: float = setting(2.0, least=0, help="Cost of each letter of such a word beyond that.")
    hotword_bonus: float = setting(4.0, least=0, help="For each hot word.")
    beam_width: float = setting(14.0, above=0, help="How far behind the best text a text is dropped.")
    class_width: float = setting(7.0, above=0, help="How far behind a frame's likeliest class a class is not tried.")
    open_width: float = setting(3.0, above=0, help="The same for classes that spell no word of the list.")
    sure_blank: float = setting(0.999, above=0, most=1, help="Posterior from which a frame is blank and nothing else.")

    def __post_init__(self) -> None:
        check_settings(self, prefix="transcribe.search.")


@dataclass(frozen=True)
class RescoringOptions:
    """How the plain LLM chooses among the search's n best texts: their scores weighted anew, and its own added.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    nbest: int = setting(16, least=1, help="Texts of the search that the LLM reads.")
    within: float = setting(6.0, above=0, help="Texts less likely by more than this, by the search, are not read.")
    llm_weight: float = setting(0.8, least=0, help="Factor of the LLM's log-probability of a text as a typed turn.")
    language_weight: float = setting(0.2, least=0, help="Factor of the n-gram's, in place of the search's.")
    word_bonus: float = setting(1.0, help="For each word, in place of the search's.")

    read_on: int | None = setting(
        6, least=0, help="Tokens that the LLM reads after what differs from the search's best text; none: to the end."
    )

    def __post_init__(self) -> None:
        check_settings(self, prefix="transcribe.rescoring.")


@dataclass(frozen=True)
class TimingOptions:
    """How far a word's edges lie from the CTC frames that say it, in seconds; measured by `benchmarks/word_times.py`.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    start: float = setting(0.048, help="From the first frame back to the word's start.")
    start_each_letter: float = setting(-0.006, help="And for each letter that this frame spells.")
    end: float = setting(0.026, help="From the last frame on to the word's end.")
    end_each_letter: float = setting(0.017, help="And for each letter that this frame spells.")

    def __post_init__(self) -> None:
        check_settings(self, prefix="transcribe.timing.")


@dataclass(frozen=True)
class ConfidenceOptions:
    """What makes a word's evidence a probability: a logistic map, fitted by `benchmarks/confidence.py`.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    bias: float = setting(0.0, help="Log-odds of a word being right, before its evidence.")
    path: float = setting(1.0, help="Factor of the log-odds of its CTC path.")
    gap: float = setting(0.0, help="Log-odds for each nat that the texts without the word are behind.")

    def __post_init__(self) -> None:
        check_settings(self, prefix="transcribe.confidence.")


@dataclass(frozen=True)
class GateOptions:
    """What a text must pass to be a transcript; measured by `benchmarks/no_invention.py`.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    speech: bool = setting(True, help="Whether nothing is written where the voice detector finds no speech.")
    evidence: float = setting(0.0, least=0, most=1, help="The least evidence of voice and CTC path; 0: none is needed.")
    disagreement: float = setting(
        0.75, least=0, most=1, help="Share of letters from which on CTC's text stands in place of what the LLM wrote."
    )
    repeats: int = setting(4, least=2, help="From so many times in a row on, what the LLM wrote is a loop.")

    def __post_init__(self) -> None:
        check_settings(self, prefix="transcribe.gates.")


@dataclass(frozen=True)
class TranscribeConfig:
    """How `transcribe` chooses words.

    Raises:
        ConfigurationError: a value out of range.
    """

    llm: bool = setting(True, help="Whether the LLM has a say in a transcript, unless told otherwise.")
    rescoring: RescoringOptions = field(default_factory=RescoringOptions)
    search: BeamSearchOptions = field(default_factory=BeamSearchOptions)
    timing: TimingOptions = field(default_factory=TimingOptions)
    confidence: ConfidenceOptions | None = None
    gates: GateOptions = field(default_factory=GateOptions)
    ngram: str | None = setting(None, help="File of the n-gram, beside this one; none: no language model of words.")
    words: str | None = setting(None, help="File of known words, beside this one; none: those of the n-gram.")

    def __post_init__(self) -> None:
        check_settings(self, prefix="transcribe.")
        for name in ("ngram", "words"):
            file = getattr(self, name)
            if file is not None and (Path(file).name != file or file in ("", "..")):
                raise ConfigurationError(
                    f"transcribe.{name} is {file!r}; give the name of a file in the model's own folder, without a path."
                )

    @property
    def files(self) -> list[str]:
        """Names of the files that the search needs, all in the model's folder."""
        return [name for name in (self.ngram, self.words) if name is not None]


@dataclass(frozen=True)
class InferenceConfig:
    """A model's prompts, and how it uses its LLM.

    Raises:
        ConfigurationError: a value out of range.
    """

    prompt_format: PromptFormat = setting(
        "chat_template", choices=get_args(PromptFormat),
        help="released: piecewise, a BOS before every piece; chat_template: the tokenizer's own template.",
    )
    text_only: TextOnly = setting(
        "plain", choices=get_args(TextOnly),
        help="How a conversation without audio is answered: by the LLM without LoRA (plain), or with it (adapted).",
    )
    audio_system_prompt: str | None = setting(
        None, help="System turn of a conversation with audio that brings none; none: what the chat template puts there."
    )
    transcribe_prompt: str = setting("What does the person say?", help="The prompt that makes the model transcribe.")
    translate_prompt: str | None = setting(
        None, help="The prompt that makes the model say in English what it hears, if it was trained to."
    )
    languages: tuple[str, ...] = setting(("en",), help="The languages that it hears, as ISO 639-1 codes.")
    answer_prompt: str | None = setting(None, help="The prompt that asks for an answer to what is said, if it has one.")
    default_prompt: str = setting(
        "Please transcribe the following audio and then answer based on the audio's transcription.",
        help="The prompt for audio that comes without one.",
    )
    transcript_prefixes: tuple[str, ...] = setting(
        (), help="What the model was trained to say before a transcript; it is taken off."
    )
    via: DefaultVia = setting(
        "audio", choices=get_args(DefaultVia),
        help="What via=auto means: the LLM reads the recording itself (audio), or the words in it (transcript).",
    )
    transcribe: TranscribeConfig = field(default_factory=TranscribeConfig)

    def __post_init__(self) -> None:
        check_settings(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> InferenceConfig:
        """From JSON's values.

        Raises:
            ConfigurationError: an unknown name, or a value out of range.
        """
        return cls().changed(values)

    def changed(self, values: Mapping[str, Any]) -> InferenceConfig:
        """With other values; under `transcribe`, those that are given.

        Raises:
            ConfigurationError: an unknown name, or a value out of range.
        """
        return _replaced(self, values, "")

    @classmethod
    def read(cls, folder: Path) -> InferenceConfig:
        """Of a model's folder; where it has no inference.json, from a config.json of before there was one.

        Raises:
            CheckpointError: a file is broken, or holds an unknown name or value.
        """
        file = folder / FILE_NAME
        try:
            if file.is_file():
                return cls.of(read_json(file))
            file = folder / "config.json"
            return cls._translated(read_json(file), file) if file.is_file() else cls()
        except ConfigurationError as error:
            raise CheckpointError(f"{file}: {error}") from error

    @classmethod
    def _translated(cls, config: Mapping[str, Any], file: Path) -> InferenceConfig:
        """From the fields that config.json held; says so where any is there."""
        moved = {name: config[name] for name in MOVED if name in config}
        if not moved:
            return cls()
        _note(file, ", ".join(name for name in DELETED if name in config))
        return cls.of(moved | implied(moved | {name: config[name] for name in DELETED if name in config}))

    def write(self, folder: Path) -> None:
        """Writes inference.json.

        Raises:
            WriteError: the disk is full or cannot be written.
        """
        write_json(folder / FILE_NAME, dataclasses.asdict(self))


RELEASED = InferenceConfig(  # the public 9B: its LLM writes transcripts itself
    prompt_format="released", text_only="adapted"
)


@functools.cache  # once for each file
def _note(file: Path, deleted: str) -> None:
    unused = f"; {deleted} were of a search that is no more, and are not used" if deleted else ""
    logger.warning("%s holds the prompts, as older versions wrote them%s. A newly saved model has %s for them.",
                   file, unused, FILE_NAME)


def implied(old: Mapping[str, Any]) -> dict[str, Any]:
    """What settings of older versions mean in today's: whose LLM transcribes alone, and who answers what is read."""
    values: dict[str, Any] = {}
    if "answer_prompt" in old:  # it made the words be found first, and answered as if typed
        values["via"] = "audio" if old["answer_prompt"] is None else "transcript"
    return values


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        CheckpointError: it is missing, larger than any such file, not UTF-8, or no JSON object.
    """
    again = "download the checkpoint again"
    try:
        size = file.stat().st_size
        if size > LARGEST_JSON_BYTES:
            raise CheckpointError(f"{file} has {size} bytes, more than {LARGEST_JSON_BYTES}: no settings; {again}.")
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # nested too deeply for Python
        raise CheckpointError(f"{file} is not valid JSON ({' '.join(str(error).split())}); {again}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a {type(values).__name__}, not an object; {again}.")
    return values


def refuse_unknown(name: str, known: list[str], error: type[SoundwaveError] = ConfigurationError) -> None:
    """Refuses a name that is not among the known ones, with the nearest of them."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise error(f"{name!r} is not a known setting; {hint}")


_ABSENT = {"confidence": ConfidenceOptions}  # groups of settings that a model may lack


def _replaced(options: T, values: Mapping[str, Any], prefix: str) -> T:
    known = [one.name for one in dataclasses.fields(options)]  # type: ignore[arg-type]
    changes = dict(values)
    for name, value in values.items():
        refuse_unknown(prefix + name, [prefix + one for one in known])
        inner = getattr(options, name)
        if inner is None and name in _ABSENT and value is not None:
            inner = _ABSENT[name]()
        if dataclasses.is_dataclass(inner) and not dataclasses.is_dataclass(value):
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{prefix}{name} is {value!r}; give a mapping.")
            changes[name] = _replaced(inner, value, f"{prefix}{name}.")
        elif isinstance(inner, tuple) and isinstance(value, list):  # as JSON and YAML have it
            changes[name] = tuple(value)
    return dataclasses.replace(options, **changes)  # type: ignore[type-var]
