"""What a caller may choose for an answer or a transcript, each option declared once.

The API's arguments, the command line's flags and a server's fields come from here. How tokens are chosen from these is
the decoder's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from soundwave.errors import ConfigurationError
from soundwave.settings import check_settings, setting

Via = Literal["auto", "audio", "transcript"]
NUMBERED = ("channels", "track")
LARGEST_SEED = 2**63 - 1  # of torch's generators


@dataclass(frozen=True)
class AudioOptions:
    """Which sound of a recording is used; the fields mean what they mean to `soundwave.load_audio`.

    Raises:
        ConfigurationError: a value out of range.
    """

    channels: str = setting(
        "mix", help="mix: all channels together; each: one after the other, a speaker a channel; or the number of one, "
        "from 1."
    )
    track: str | None = setting(
        None, help="The number of a sound track, from 1; mix: all together; default: the first that is not silent."
    )
    start: float = setting(0.0, least=0, help="Where to begin, in seconds of the recording.")
    end: float | None = setting(None, above=0, help="Where to end, in seconds of the recording; default: its end.")

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("channels", "track"):
            value = getattr(self, name)
            words = ("mix", "each") if name == "channels" else ("mix", None)
            if value not in words and not (value.isascii() and value.isdigit() and int(value) >= 1):
                told = "mix, each" if name == "channels" else "mix"
                raise ConfigurationError(f"{name} is {value!r}; give {told} or a number from 1 on.")
        if self.end is not None and self.end <= self.start:
            raise ConfigurationError(f"end is {self.end:g}, but start is {self.start:g}; give an end that comes later.")

    @classmethod
    def of(cls, **given: Any) -> AudioOptions:
        """From the arguments of a call, in which a channel or a track may be a number."""
        numbers = {name: str(value) for name, value in given.items() if isinstance(value, int) and name in NUMBERED}
        return cls(**given | numbers)

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `load_audio`."""
        numbers = {
            name: int(value) if value is not None and value.isdigit() else value
            for name, value in (("channels", self.channels), ("track", self.track))
        }
        return {**numbers, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is made; the defaults are those of the released code.

    Raises:
        ConfigurationError: a value out of range.
    """

    temperature: float = setting(0.2, least=0, help="0 always takes the likeliest token; higher is more varied.")
    top_p: float = setting(0.9, above=0, most=1, help="Sample from the likeliest tokens that share this probability.")
    max_new_tokens: int = setting(512, least=1, help="The longest answer, in tokens.")
    seed: int | None = setting(
        None, least=0, most=LARGEST_SEED, help="The same seed gives the same sampled answer, alone and in a batch."
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class AskOptions(GenerationOptions):
    """How a prompt about a recording is answered.

    Raises:
        ConfigurationError: a value out of range.
    """

    via: Via = setting(
        "auto", choices=get_args(Via),
        help="audio: the LLM reads the recording itself; transcript: it reads the words found in it; auto: as the "
        "model does best, which its card states.",
    )


@dataclass(frozen=True)
class ChatOptions(AskOptions):
    """How the next turn of a conversation is made.

    Raises:
        ConfigurationError: a value out of range.
    """

    stop: tuple[str, ...] = setting((), help="Texts before the first of which the answer ends.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in self.stop:
            raise ConfigurationError(f"stop is {list(self.stop)!r}; an empty text would end every answer: remove it.")


@dataclass(frozen=True)
class TranscribeOptions:
    """How a recording is written down.

    Raises:
        ConfigurationError: a value out of range.
    """

    llm: bool | None = setting(
        None, help="Whether the LLM has a say in the words; none: as the model does best, which its card states."
    )
    hotwords: tuple[str, ...] = setting((), help="Names and terms that are likely to be said.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class SubtitleOptions:
    """How the text of subtitles is laid out, in SRT and WebVTT; the names are those of Whisper's command line.

    Raises:
        ConfigurationError: a value out of range, or a count of lines without their width.
    """

    max_line_width: int | None = setting(
        None, least=1, help="Most characters of a line of srt and vtt; default: a segment is one line."
    )
    max_line_count: int | None = setting(
        None, least=1, help="Most lines of a subtitle; what is longer becomes several. Needs --max-line-width."
    )
    highlight_words: bool = setting(False, help="Underline each word in srt and vtt while it is said.")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.max_line_count is not None and self.max_line_width is None:
            raise ConfigurationError(
                f"max_line_count is {self.max_line_count}, but max_line_width is not given: lines of any width are "
                "never more than one; give both, such as 42 and 2."
            )


@dataclass(frozen=True)
class ListenOptions(TranscribeOptions):
    """How live sound is written down while it is heard.

    Raises:
        ConfigurationError: a value out of range.
    """

    step: float = setting(
        0.16, least=0.04, most=2, help="How often the words under way are found anew, in seconds of sound."
    )
    window: float = setting(
        4.0, least=2, most=30, help="How much of the latest sound is heard for it, in seconds: what each step costs."
    )
    stands_after: float = setting(
        1.0, least=0.2, most=10, help="How long ago a word must have ended to change no more, in seconds."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stands_after > self.window / 2:  # a word stands after twice that at the latest, and must be in view
            raise ConfigurationError(
                f"stands_after is {self.stands_after:g}; with a window of {self.window:g} s, give half of it at most."
            )
