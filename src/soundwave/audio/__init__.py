"""Any recording in, float32 mono samples at 16 kHz out; or one line that says why not.

`decoding.py` takes files apart with FFmpeg, `loading.py` finds the recording behind what the caller gave, and checks,
mixes and resamples it.
"""

from soundwave.audio.loading import SAMPLE_RATE, AudioInput, decode_base64, is_silent, load_audio

__all__ = ["SAMPLE_RATE", "AudioInput", "decode_base64", "is_silent", "load_audio"]
