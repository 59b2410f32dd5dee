"""Load mini, write down a recording, ask about it, and print an answer while it is made.

python examples/ask.py [RECORDING]
"""

import sys
from pathlib import Path

import soundwave

recording = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_name("question.wav"))

engine = soundwave.load("mini")
print("It says: ", engine.transcribe(recording).text)
print("Asked:   ", engine.ask(recording, "Please answer the question that the person asks.", temperature=0).text)
print("Streamed: ", end="")
for chunk in engine.stream(recording, "What does the person say?", temperature=0):
    print(chunk.text, end="", flush=True)
print()
