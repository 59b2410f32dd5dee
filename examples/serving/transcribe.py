"""Writes a recording down with OpenAI's own client: the words with their times, then the text while it is found.

    python examples/serving/transcribe.py RECORDING [ADDRESS]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from openai import OpenAI

recording = Path(sys.argv[1])
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=address, api_key=os.environ.get("SOUNDWAVE_API_KEY", "none"))
model = os.environ.get("MODEL", "mini")

transcript = client.audio.transcriptions.create(
    model=model, file=recording, language="en", response_format="verbose_json", timestamp_granularities=["word"]
)
for word in transcript.words or []:
    print(f"{word.start:7.2f} {word.end:7.2f}  {word.word}")

for event in client.audio.transcriptions.create(model=model, file=recording, stream=True):
    if event.type == "transcript.text.delta":
        print(event.delta, end="", flush=True)
print()
