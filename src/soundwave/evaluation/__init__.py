"""Scores of a model on manifests, each kept with all that decides it.

The names of the tasks stand here, alone and quick to import, so that the command line can offer them.
"""

from enum import Enum


class TaskName(str, Enum):
    """What is measured; `tasks.py` says how."""

    transcribe = "transcribe"
    ctc = "ctc"
    questions = "questions"
    typed_questions = "typed-questions"
    no_speech = "no-speech"
    intent = "intent"
    sounds = "sounds"
    translation = "translate"  # a `translate` of its own would hide that of str
