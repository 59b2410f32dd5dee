"""How likely somebody speaks, for each 32 ms of a stream: Silero's detector, run by onnxruntime on one thread.

It knows nothing of utterances or of cutting. The network lies in the package `silero-vad`, which is found but never
imported: its import sets how many threads torch uses.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from soundwave.audio.mixing import Samples
from soundwave.errors import ConfigurationError

WINDOW = 512  # samples for each probability: 32 ms
CONTEXT = 64  # samples before a window that the network sees with it
STATE_WIDTH = 128  # of the network's LSTM
WINDOWS_AT_ONCE = 64  # as fast as any more; the probabilities are the same bit by bit, however many there are
SPEECH_PROBABILITY = 0.5  # from here on a window is speech, as the network's authors advise
NETWORK = "silero_vad_16k_sequence.onnx"


class SpeechDetector:
    """The probability of speech in a stream of samples, window by window.

    It does not matter in what pieces the samples come. Detectors share one network, and may run in several threads.
    """

    def __init__(self) -> None:
        self._network = _network()
        self.reset()

    def reset(self) -> None:
        """Forgets all that was fed: the next sample is the first of a recording."""
        self._h = self._c = np.zeros((1, 1, STATE_WIDTH), np.float32)
        self._waiting = np.zeros(CONTEXT, np.float32)  # the context of the next window, and what there is of it

    def feed(self, samples: Samples) -> np.ndarray:
        """Takes the next samples in.

        Args:
            samples: (T,) float32 at 16 kHz.

        Returns:
            (W,) float32: for each window of 512 samples that they complete, how likely there is speech in it.
        """
        sound = np.concatenate([self._waiting, samples.astype(np.float32, copy=False)])
        count = (len(sound) - CONTEXT) // WINDOW
        self._waiting = sound[count * WINDOW :].copy()
        if count == 0:
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(sound, CONTEXT + WINDOW)[::WINDOW]  # (W, 576)
        return np.concatenate([
            self._run(windows[first : first + WINDOWS_AT_ONCE]) for first in range(0, count, WINDOWS_AT_ONCE)
        ])

    def _run(self, windows: np.ndarray) -> np.ndarray:
        """Probabilities of windows (W, 576); the LSTM goes on from the last ones."""
        inputs = {"input": np.ascontiguousarray(windows), "h": self._h, "c": self._c}
        probabilities, self._h, self._c = self._network.run(["speech_probs", "hn", "cn"], inputs)
        return np.asarray(probabilities).reshape(-1)


def speech_probabilities(samples: Samples) -> np.ndarray:
    """How likely there is speech in each window of a whole recording, (T,) -> (W,); the last one is filled with zeros.

    >>> speech_probabilities(np.zeros(1000, np.float32)).shape
    (2,)
    """
    return SpeechDetector().feed(np.concatenate([samples, np.zeros(-len(samples) % WINDOW, np.float32)]))


@functools.cache
def _network() -> Any:
    """The network, read once.

    Raises:
        ConfigurationError: the package that holds it is not installed.
    """
    import onnxruntime  # takes a third of a second, which only those pay who look for speech

    found = importlib.util.find_spec("silero_vad")
    path = Path(found.origin).parent / "data" / NETWORK if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigurationError(
            f"The speech detector {NETWORK} is not installed, or the package that brings it is too old; "
            "run: pip install 'silero-vad>=6.2.3'"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # hundreds of times real time; more gain nothing
    options.log_severity_level = 3  # errors; it warns of processors that it cannot name
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
