"""A row that cannot be used is refused with its file, its line, what was wrong and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_data import CUT, REPLY, USER, parts, write

from soundwave.data.readers import read_manifest
from soundwave.errors import DataError

BAD_ROWS: dict[str, tuple[Any, str]] = {
    "not JSON": ('{"audio": "a.wav",', r"m.jsonl:2: not JSON at character 20 .*write one whole JSON object a line"),
    "a list": ([1], r"m.jsonl:2: the line is list, not an object; write"),
    "unknown format": (
        {"wav": "a.wav", "label": 1},
        r"m.jsonl:2: no known manifest format; the keys are 'wav', 'label'. A line needs one of messages, "
        r"conversations, audio_filepath, supervisions, audio; the short form is",
    ),
    "too few audios": (
        {"messages": [{"role": "user", "content": "<audio><audio>Same?"}, REPLY], "audios": ["a.wav"]},
        r"m.jsonl:2: 2 <audio> marks in the messages, but 1 audio files; write one <audio> where each file belongs",
    ),
    "too many audios": (
        {"messages": [USER, REPLY], "audios": ["a.wav", "b.wav"]},
        r"m.jsonl:2: 1 <audio> marks in the messages, but 2 audio files",
    ),
    "audios not a list": (
        {"messages": [USER, REPLY], "audios": "a.wav"},
        r"m.jsonl:2: audios is 'a.wav'; it must be a list",
    ),
    "messages not a list": ({"messages": "hi"}, r"m.jsonl:2: messages is 'hi'; it must be a list of role and content"),
    "message not an object": ({"messages": ["hi"]}, r"m.jsonl:2: a message is 'hi'; it must be an object"),
    "content a number": (
        {"messages": [{"role": "user", "content": 5}, REPLY]},
        r"a message's content is 5; it must be",
    ),
    "role": (
        {"messages": [{"role": "robot", "content": "x"}, REPLY]},
        r"m.jsonl:2: the role is 'robot'; allowed are system, user, human, assistant, gpt",
    ),
    "no reply": (
        {"messages": [USER], "audios": ["a.wav"]},
        r"m.jsonl:2: the last message is user; it must be the assistant's",
    ),
    "no messages": ({"messages": []}, r"m.jsonl:2: the last message is missing; it must be the assistant's"),
    "audio in the reply": (
        {
            "messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "<audio>"}],
            "audios": ["a"],
        },
        r"m.jsonl:2: the assistant's reply contains audio; replies are text",
    ),
    "part": (parts({"type": "video", "path": "a.mp4"}), r"its type must be one of text, audio, input_audio, audio_url"),
    "text part": (parts({"type": "text", "text": None}), r"m.jsonl:2: a text part is None; it must be a text"),
    "input_audio": (parts({"type": "input_audio", "input_audio": "x"}), r'input_audio must be \{"data": base64 text'),
    "no text": ({"audio": "a.wav"}, r"m.jsonl:2: no text; the short form is audio and text. Transcribe the clip first"),
    "null text": ({"audio": "a.wav", "text": None}, r"m.jsonl:2: no text"),
    "text a number": ({"audio": "a.wav", "text": 5}, r"m.jsonl:2: text is 5; it must be a text in quotes"),
    "prompt a number": ({"audio": "a.wav", "text": "x", "prompt": 5}, r"m.jsonl:2: prompt is 5; it must be a text"),
    "transcript a number": (
        {"audio": "a.wav", "text": "x", "transcript": 5},
        r"m.jsonl:2: transcript is 5; it must be",
    ),
    "audio a number": (
        {"audio": 5, "text": "x"},
        r"m.jsonl:2: the audio is 5; it must be a path, relative to the manifest",
    ),
    "audio an address": (
        {"audio": "https://example.org/a.wav", "text": "x"},
        r"m.jsonl:2: the audio is the address https://example.org/a.wav; training reads files only. Download it first",
    ),
    "duration": (
        {"audio": "a.wav", "text": "x", "duration": "3s"},
        r"m.jsonl:2: duration is '3s'; it must be a number of sec",
    ),
    "negative": (
        {"audio": "a.wav", "text": "x", "start": -1},
        r"m.jsonl:2: start is -1; it must be a number of seconds, 0",
    ),
    "end first": (
        {"audio": "a.wav", "text": "x", "start": 3, "end": 2},
        r"m.jsonl:2: end is 2 s and start is 3 s; the end",
    ),
    "cut of two": (
        {"audio": ["a", "b"], "text": "x", "end": 2},
        r"m.jsonl:2: start and end with 2 audio files; they need ex",
    ),
    "conversations": (
        {"conversations": "hi"},
        r"m.jsonl:2: conversations is 'hi'; it must be a list of objects with from",
    ),
    "a turn's value": ({"conversations": [{"from": "user"}]}, r"m.jsonl:2: a turn's value is None; it must be a text"),
    "lhotse mix": (
        {"type": "MixedCut", "supervisions": []},
        r"m.jsonl:2: a lhotse MixedCut without one recording; only pl",
    ),
    "lhotse pipe": (
        {**CUT, "recording": {"sources": [{"type": "command", "source": "sox"}]}},
        r"m.jsonl:2: the recording's source is of type 'command'; only files are read. Save the cuts' own sound",
    ),
    "lhotse sources": (
        {**CUT, "recording": {"sources": [5]}},
        r"m.jsonl:2: the recording's sources are \[5\]; they must be a list of objects",
    ),
    "lhotse recording": ({**CUT, "recording": "a.wav"}, r"m.jsonl:2: recording is 'a.wav'; it must be an object with"),
    "lhotse supervisions": (
        {**CUT, "supervisions": [5]},
        r"m.jsonl:2: the supervisions are \[5\]; they must be a list of objects",
    ),
    "supervisions beside messages": (
        {"messages": [USER, REPLY], "audios": ["a.wav"], "supervisions": "x"},
        r"m.jsonl:2: the supervisions are 'x'; they must be a list of objects",
    ),
    "lhotse custom": ({**CUT, "custom": 5}, r"m.jsonl:2: custom is 5; it must be an object"),
    "lhotse custom audios": (
        {**CUT, "custom": {"messages": [USER, REPLY], "audios": [1]}},
        r"m.jsonl:2: the custom audios are \[1\]; they must be a list of objects",
    ),
    "lhotse text": (
        {**CUT, "supervisions": [{"text": 5}]},
        r"m.jsonl:2: a supervision's text is 5; it must be a text in quotes",
    ),
    "a NUL in a path": (
        {"audio": "a\0.wav", "text": "x"},
        r"m.jsonl:2: the audio is 'a\\x00.wav'; no file's name has a NUL",
    ),
    "language a list": (
        {"audio": "a.wav", "text": "x", "language": ["en"]},
        r"m.jsonl:2: language is \['en'\]; it must be a text in quotes",
    ),
    "task a number": ({"audio": "a.wav", "text": "x", "task": 5}, r"m.jsonl:2: task is 5; it must be a text in quotes"),
    "half a surrogate pair": (
        r'{"audio": "a.wav", "text": "x", "notes": [{"deep": "lone \ud800 one"}]}',
        r"m.jsonl:2: a text has '\\ud800', half of a surrogate pair and no character; write the pair",
    ),
    "half a pair in a name": (
        r'{"audio": "a.wav", "text": "x", "\udfff": 1}',
        r"m.jsonl:2: a text has '\\udfff', half of",
    ),
    "too deep": ("[" * 100_000, r"m.jsonl:2: lists or objects too deep in one another; write a plain row"),
    "too many digits": (
        '{"audio": "a.wav", "text": "x", "n": ' + "9" * 5000 + "}",
        r"m.jsonl:2: a number of more than \d+ digits; write it shorter, or in quotes",
    ),
    "seconds beyond all floats": (
        {"audio": "a.wav", "text": "x", "duration": 10**400},
        r"m.jsonl:2: duration is 10+; it must be a number of seconds, 0 or more",
    ),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_line_is_named_with_what_is_wrong_and_what_is_allowed(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path, {"audio": "a.wav", "text": "fine"}, row)
    with pytest.raises(DataError, match=message) as caught:
        list(read_manifest(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
