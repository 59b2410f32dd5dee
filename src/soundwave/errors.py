"""The mistakes a person can make, as exceptions with one readable line each.

Knows nothing about exit codes or HTTP statuses: the command line and the server each map these classes in one place.

A message says what was wrong, the value that was given, what is allowed, and what to do next, on one line.
An `assert` is for our own bugs only; anything a user can reach raises one of these.
"""

SHOWN_CHARACTERS, MESSAGE_CHARACTERS = 100, 1000


def shown(value: object) -> str:
    """A value from outside as a message quotes it: on one line of bearable length, whatever it is.

    Example:
        >>> shown("a" * 1000)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaaaa'"
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists that hold themselves
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:60]}...{text[-30:]}"


class SoundwaveError(Exception):
    """Any mistake in what Soundwave was given; catch this one to catch them all."""

    def __str__(self) -> str:
        """The message; where what it quotes is endless, its beginning and its end."""
        text = super().__str__()
        return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:600]}...{text[-300:]}"


class AudioError(SoundwaveError):
    """A recording that cannot be used: not audio, broken, empty, too long, missing, or of a wrong shape or type."""


class AudioTooLongError(AudioError):
    """A recording over a limit, wherever that is met.

    Attributes:
        seconds: Its length; None where it was not read to the end.
        limit: The most seconds that are allowed.
    """

    def __init__(self, message: str, seconds: float | None, limit: float):
        super().__init__(message)
        self.seconds, self.limit = seconds, limit

    def __reduce__(self) -> tuple[type, tuple[str, float | None, float]]:  # else it could not leave a worker process
        return type(self), (str(self), self.seconds, self.limit)


class SoundwaveWarning(UserWarning):
    """What was used all the same, and is not as it should be: a recording whose channels cancel, or that ends early."""


class ConfigurationError(SoundwaveError):
    """A setting that does not exist, has a value that is not allowed, or contradicts another one."""


class CheckpointError(SoundwaveError):
    """A model that cannot be found, downloaded, verified or read."""


class DataError(SoundwaveError):
    """A manifest or an example of training or evaluation data that cannot be used."""


class WriteError(SoundwaveError):
    """A file that cannot be written: the disk is full, the name too long, or the place not ours to write to."""


class TrainingError(SoundwaveError):
    """A training run that cannot start or go on, for instance because a loss is not a number."""
