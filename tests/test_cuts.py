"""Cuts of lhotse: what is the sound of a file is read, and all else is a bad row that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_data import CUT, REPLY, USER, cut_of
from tiny_data import manifest

from soundwave.data.probe import samples_of
from soundwave.data.readers import read_manifest
from soundwave.data.rows import read_rows
from soundwave.errors import DataError

BAD_CUTS: dict[str, tuple[dict[str, Any], str]] = {
    "mix": (
        {"type": "MixedCut", "supervisions": []},
        r"m.jsonl:2: a lhotse MixedCut without one recording; only pl",
    ),
    "pipe": (
        {**CUT, "recording": {"sources": [{"type": "command", "source": "sox"}]}},
        r"m.jsonl:2: the recording's source is of type 'command'; only files are read. Save the cuts' own",
    ),
    "mix of tracks": (
        {"type": "MixedCut", "tracks": [{"cut": CUT, "offset": 0.0}]},
        r"m.jsonl:2: a lhotse MixedCut without one recording; only plain cuts \(MonoCut\).*cuts.save_audios\(FOLDER\)",
    ),
    "features alone": (
        {**{key: value for key, value in CUT.items() if key != "recording"}, "features": {"storage_path": "a"}},
        r"m.jsonl:2: a lhotse MonoCut without one recording; only plain cuts",
    ),
    "channel of two": (
        cut_of(channel_ids=[0, 1]),
        r"m.jsonl:2: the cut is channel 0 of a recording with 2 channels in 1 file.*cuts.save_audios\(FOLDER\)",
    ),
    "channels in files of their own": (
        cut_of(sources=[{"type": "file", "channels": [n], "source": f"{n}.wav"} for n in (0, 1)]),
        r"m.jsonl:2: the cut is channel 0 of a recording with 2 channels in 2 files",
    ),
    "channel that is not there": (
        {**CUT, "channel": 1}, r"m.jsonl:2: the cut is channel 1, and its recording has only channel 0",
    ),
    "speed": (
        cut_of(transforms=[{"name": "Speed", "kwargs": {"factor": 1.1}}]),
        r"m.jsonl:2: the recording's sound is to be changed by Speed \(factor 1.1\) as it is loaded; .*save_audios",
    ),
    "telephone rate": (
        cut_of(transforms=[{"name": "Resample", "kwargs": {"target_sampling_rate": 8000}}]),
        r"m.jsonl:2: the recording's sound is to be changed by Resample \(target_sampling_rate 8000\)",
    ),
    "conversation of a changed recording": (
        {**cut_of(transforms=[{"name": "Volume"}]), "custom": {"messages": [USER, REPLY], "audios": [{}]}},
        r"m.jsonl:2: the recording's sound is to be changed by Volume as it is loaded",
    ),
    "custom that is no object": ({**CUT, "custom": 5}, "m.jsonl:2: custom is 5; it must be an object"),
    "supervision that is no object": ({**CUT, "supervisions": [5]}, "m.jsonl:2: the supervisions are .5.; they must"),
    "text that is no text": (
        {**CUT, "supervisions": [{"text": 5}]}, "m.jsonl:2: a supervision's text is 5; it must be a text",
    ),
}


@pytest.mark.parametrize(("row", "message"), BAD_CUTS.values(), ids=BAD_CUTS)
def test_a_cut_that_is_not_the_sound_of_its_file_is_refused(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_manifest(manifest(tmp_path, json.dumps(CUT), row)))


def test_what_lhotse_saves_to_files_is_read(tmp_path: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    left, right = np.full(8000, 0.5), np.full(8000, -0.25)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16_000)
    recording = Recording.from_file(tmp_path / "stereo.wav")
    cuts = CutSet.from_cuts(
        MonoCut(f"c{n}", 0, 0.5, n, [SupervisionSegment(f"s{n}", recording.id, 0, 0.5, n, text=f"channel {n}")],
                recording=recording)
        for n in (0, 1)
    )  # fmt: skip
    cuts.to_file(tmp_path / "cuts.jsonl")
    assert [row.problem is not None for row in read_rows(tmp_path / "cuts.jsonl")] == [True, True]
    cuts.save_audios(tmp_path / "saved", progress_bar=False).to_file(tmp_path / "saved.jsonl")
    one, other = read_manifest(tmp_path / "saved.jsonl")
    assert (one.reply, other.reply) == ("channel 0", "channel 1")
    np.testing.assert_allclose(samples_of(one.audios[0]), left, atol=1e-3)
    np.testing.assert_allclose(samples_of(other.audios[0]), right, atol=1e-3)
