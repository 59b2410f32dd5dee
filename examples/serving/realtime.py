"""Captions of a recording while it is sent, at the speed at which it was made, over the realtime WebSocket.

    python examples/serving/realtime.py RECORDING [ADDRESS]
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time

import numpy as np
from websockets.sync.client import ClientConnection, connect

from soundwave.audio import SAMPLE_RATE, load_audio

PIECE_SECONDS = 0.1
SPEED = float(os.environ.get("SPEED", "1"))  # times real time


def send(connection: ClientConnection, samples: np.ndarray) -> None:
    """Sends (T,) samples as a microphone would."""
    piece = round(PIECE_SECONDS * SAMPLE_RATE)
    for begin in range(0, len(samples), piece):
        audio = (samples[begin : begin + piece] * 32767).astype("<i2").tobytes()
        connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}))
        time.sleep(PIECE_SECONDS / SPEED)
    connection.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))


recording = load_audio(sys.argv[1], max_seconds=None)
address = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1"
key = os.environ.get("SOUNDWAVE_API_KEY", "none")
with connect(
    address.replace("http", "ws", 1) + "/realtime", additional_headers={"Authorization": f"Bearer {key}"}
) as connection:
    threading.Thread(target=send, args=(connection, recording), daemon=True).start()
    for message in connection:
        event = json.loads(message)
        if event["type"] == "transcription.delta":
            print("…", event["text"])  # the utterance under way; its words may still change
        elif event["type"] == "transcription.segment":
            print(f"{event['start']:7.2f} {event['end']:7.2f}  {event['text']}")
        elif event["type"] == "error":
            sys.exit(event["error"]["message"])
