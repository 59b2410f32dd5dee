"""Any recording in, float32 samples at 16 kHz out, whole, cut, or as a stream of blocks; or one line that says why not.

`sources.py` finds the file behind what the caller gave, `links.py` and `chunks.py` the recordings that stand in it one
after the other, `decoding.py` takes each apart with FFmpeg (`headers.py`: what it states), `tracks.py` and `mixing.py`
choose and mix tracks and channels, `resampling.py` brings them to 16 kHz, `arrays.py` reads arrays in place of files,
and `loading.py` puts it together.
"""

from soundwave.audio.loading import AudioInput, is_silent, iter_audio, load_audio
from soundwave.audio.mixing import Channels
from soundwave.audio.recording import Lost
from soundwave.audio.resampling import SAMPLE_RATE
from soundwave.audio.sources import decode_base64
from soundwave.audio.tracks import Track

__all__ = [
    "SAMPLE_RATE",
    "AudioInput",
    "Channels",
    "Lost",
    "Track",
    "decode_base64",
    "is_silent",
    "iter_audio",
    "load_audio",
]
