"""Talks to a server with OpenAI's own client: a question about a recording, then another one, streamed.

    python examples/serving/chat.py RECORDING [ADDRESS]
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI

recording = Path(sys.argv[1]).read_bytes()
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=address, api_key=os.environ.get("SOUNDWAVE_API_KEY", "none"))
model = os.environ.get("MODEL", "mini")

audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(recording).decode(), "format": "wav"}}
messages: list[Any] = [{"role": "user", "content": [audio, {"type": "text", "text": "What is this about?"}]}]
answer = client.chat.completions.create(model=model, messages=messages, max_tokens=40)
print(answer.choices[0].message.content)

messages += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "Say more."}]
for event in client.chat.completions.create(model=model, messages=messages, max_tokens=40, stream=True):
    print(event.choices[0].delta.content or "", end="", flush=True)
print()
