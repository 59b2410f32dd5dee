"""Training from shards: the same batches whoever reads them and however often it is stopped; what is lost is named."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from test_killed_runs import started
from test_processes import TEXT_ONLY, in_processes
from tiny_data import served
from tiny_runs import weights

from soundwave.data.shards import Shard, expanded, find_shards, read_shard
from soundwave.datatools.shard import shard
from soundwave.errors import ConfigurationError, DataError, TrainingError
from soundwave.training.collate import Batch
from soundwave.training.loop import train
from soundwave.training.prepare import prepare
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.reporting import read_metrics
from soundwave.training.sampler import Place
from soundwave.training.streaming import LaneState, Stream, StreamSource

SHARDS, IN_ONE, STEPS = 5, 4, 8  # of the clips below; of a run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips as a manifest, as Shar and as WebDataset, and tiny parts to train with."""
    folder = tmp_path_factory.mktemp("stream")
    tiny_runs.recipe(folder)  # makes the parts
    rows = tiny_runs.clips(folder / "clips", SHARDS * IN_ONE)
    for i, row in enumerate(rows):
        row["id"] = f"clip{i}"
    manifest = tiny_runs.manifest_of(folder / "clips", rows)
    shard(manifest, folder / "shar", shard_size=IN_ONE)
    shard(manifest, folder / "tars", layout="webdataset", shard_size=IN_ONE)
    few = tiny_runs.manifest_of(folder / "clips", rows[:6], "few.jsonl")
    shard(few, folder / "few", shard_size=3)
    return folder


def recipe(data: Path, name: str, *sources: DataSource, **changes: Any) -> Recipe:
    """A run over the Shar, if nothing else is named."""
    chosen = list(sources) or [DataSource(str(data / "shar"))]
    plain: dict[str, Any] = {
        "output_dir": str(data / name), "features": None, "train": chosen, "max_steps": STEPS, "save_steps": 2,
        "stream_buffer_size": 7, "batches_per_step": 2,
        "learning_rate": 3e-4,  # so that rounding, in one process or two, does not grow from step to step
    }  # fmt: skip
    return tiny_runs.recipe(data, **plain | changes)


def stream_of(data: Path, *sources: DataSource, lanes: int = 2, **changes: Any) -> Stream:
    chosen = recipe(data, "unused", *sources, **changes)
    made = prepare(chosen, torch.device("cpu"), "no", main=False).stream
    assert made is not None
    made.lanes = lanes
    return made


def names(stream: Stream, lane: int, count: int, state: LaneState | None = None) -> list[list[str]]:
    """The examples of a lane's next batches."""
    return [[item.example.id for item in items] for items, _ in islice(stream.batches(lane, state), count)]


def drawn(stream: Stream, lane: int, chunks: int) -> list[str]:
    """The examples of a lane's next buffers."""
    found: list[str] = []
    for items, state in stream.batches(lane):
        if state.chunk > chunks or (state.chunk == chunks and state.batch > 0):
            return found
        found += [item.example.id for item in items]
    raise AssertionError


# The order


def test_a_pass_of_all_lanes_gives_every_example_once(data: Path) -> None:
    for lanes in (1, 2, 3, 5):
        stream, seen = stream_of(data, lanes=lanes, stream_buffer_size=1), Counter[str]()
        for lane in range(lanes):
            shards = len(range(lane, SHARDS, lanes))
            seen.update(drawn(stream, lane, shards * IN_ONE))
        assert seen == Counter({f"clip{i}": 1 for i in range(SHARDS * IN_ONE)}), lanes


def test_lanes_share_a_shard_where_there_are_fewer_shards_than_lanes(data: Path) -> None:
    stream, seen = stream_of(data, DataSource(str(data / "few")), lanes=5, stream_buffer_size=1), list[str]()
    for lane in range(5):
        part = stream.sources[0].parts(1, 0, lane, 5)[0]
        seen += drawn(stream, lane, len(range(part.offset, 3, part.stride)))
    assert sorted(seen) == [f"clip{i}" for i in range(6)]


def test_every_pass_and_every_seed_has_its_own_order_of_shards(data: Path) -> None:
    source = StreamSource.of(DataSource(str(data / "shar")))
    orders = {tuple(part.shard for part in source.parts(seed, epoch, 0, 1)) for seed in (1, 2) for epoch in range(4)}
    assert len(orders) > 4
    assert all(sorted(order) == list(range(SHARDS)) for order in orders)
    assert source.parts(1, 3, 0, 2) == source.parts(1, 3, 0, 2)


def test_batches_are_buckets_within_the_recipe_s_bounds(data: Path) -> None:
    stream = stream_of(data, stream_buffer_size=20, lanes=1)
    spread = []
    for items, _ in islice(stream.batches(0), 30):
        seconds = [item.seconds for item in items]
        assert len(items) <= 3
        assert max(seconds) * len(items) <= 3.0
        spread.append(max(seconds) - min(seconds))
    assert sum(spread) / len(spread) < 0.4  # of clips of 0.5 to 2.4 s


@pytest.mark.parametrize("lane", [0, 1])
def test_a_position_is_where_the_batches_go_on(data: Path, lane: int) -> None:
    sources = DataSource(str(data / "shar"), speeds=[0.9, 1.0]), DataSource(str(data / "tars"), task="other")
    stream = stream_of(data, *sources, mixture="dynamic")
    straight = list(islice(stream.batches(lane), 24))
    for done in (1, 2, 3, 7, 16):
        again = list(islice(stream.batches(lane, straight[done - 1][1]), 24 - done))
        assert again == straight[done:], done


def test_sources_are_mixed_by_their_examples_and_repeats(data: Path) -> None:
    sources = DataSource(str(data / "shar")), DataSource(str(data / "few"), repeat=10)
    seen = Counter[str]()
    for items, _ in islice(stream_of(data, *sources, lanes=1).batches(0), 300):
        seen.update(item.name.split("/")[-2] for item in items)
    assert seen["few"] / (seen["few"] + seen["shar"]) == pytest.approx(60 / 80, abs=0.05)


def test_a_dynamic_mixture_goes_from_examples_alike_to_tasks_alike(data: Path) -> None:
    sources = DataSource(str(data / "shar"), repeat=4), DataSource(str(data / "few"), task="other")
    stream, share = stream_of(data, *sources, lanes=1, mixture="dynamic"), []
    batches = stream.batches(0)
    for _ in range(2):
        seen = Counter(item.name.split("/")[-2] for items, _ in islice(batches, 250) for item in items)
        share.append(seen["few"] / seen.total())
    assert share[0] < share[1]
    assert share[1] == pytest.approx(0.5, abs=0.08)
    assert stream_of(data, *sources, lanes=1).sources[1].weight / 86 < 0.1  # what it would stay without


def test_a_plain_manifest_may_be_mixed_in(data: Path) -> None:
    sources = DataSource(str(data / "shar")), DataSource(str(data / "clips" / "few.jsonl"))
    seen = {item.example.id for items, _ in islice(stream_of(data, *sources).batches(1), 80) for item in items}
    assert seen == {f"clip{i}" for i in range(20)}


def test_memory_stays_bounded_by_the_buffer(data: Path) -> None:
    stream = stream_of(data, stream_buffer_size=4, lanes=1)
    batches = stream.batches(0)
    next(batches)
    tracemalloc.start()
    for _ in islice(batches, 100):
        pass
    first = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in islice(batches, 200):
        pass
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < first + 300_000
    assert peak < first + 2_000_000  # the shards hold more than one would guess from 4 clips of 100 kB


def assert_same(one: Recipe, other: Recipe, tolerance: float = 0.0) -> None:
    ours, theirs = (tiny_runs.losses(run.output_dir) for run in (one, other))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, STEPS + 1))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=tolerance), a["step"]


@pytest.fixture(scope="module")
def straight(data: Path) -> Recipe:
    """A streamed run to its end: two sources, one of each layout, at two speeds."""
    sources = DataSource(str(data / "shar"), speeds=[0.9, 1.0]), DataSource(str(data / "tars"), task="other")
    chosen = recipe(data, "straight", *sources, mixture="dynamic")
    train(chosen)
    return chosen


def test_two_processes_stream_the_batches_of_one(data: Path, straight: Recipe) -> None:
    apart = dataclasses.replace(straight, output_dir=str(data / "apart"))
    assert in_processes(2, [apart], data) == [0, 0], (data / "process-0.txt").read_text()
    assert_same(straight, apart, tolerance=1e-4)


def test_a_streamed_run_that_is_killed_goes_on_as_if_it_had_not_been(data: Path, straight: Recipe) -> None:
    killed = dataclasses.replace(straight, output_dir=str(data / "killed"))
    process = started(killed, KILL_IN_SAVE="3")
    assert process.wait(300) == -9
    assert len(read_metrics(data / "killed" / "metrics.jsonl")) == 6
    train(killed)
    assert_same(straight, killed)
    one, other = (weights(Path(run.output_dir) / "final") for run in (straight, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_of_two_processes_is_resumed_by_one(data: Path, straight: Recipe) -> None:
    moved = dataclasses.replace(straight, output_dir=str(data / "moved"), max_steps=STEPS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KILL_IN_SAVE", "2")
        codes = in_processes(2, [moved], data, seconds=300)
    assert -9 in codes
    train(moved)
    assert_same(straight, moved, tolerance=1e-4)


def test_another_number_of_lanes_is_refused(data: Path, straight: Recipe) -> None:
    with pytest.raises(TrainingError, match="shared among 2 batches a step, but now a step has 4; set batches_per_st"):
        train(dataclasses.replace(straight, batches_per_step=4))


def test_other_streams_are_refused(data: Path, straight: Recipe) -> None:
    with pytest.raises(TrainingError, match=r"changed since: train from \['.*shar', '.*tars'\] to \['.*shar'\]"):
        train(dataclasses.replace(straight, train=straight.train[:1]))
    with pytest.raises(TrainingError, match=r"The run was begun with the streams .*, but the recipe now names "):
        stream_of(data, *straight.train).use(stream_of(data).catalogue())


def test_a_later_stage_streams_text_alone_too_and_keeps_no_tokens(data: Path, tmp_path: Path) -> None:
    rows = [*tiny_runs.clips(tmp_path, 4), *TEXT_ONLY]
    shard(tiny_runs.manifest_of(tmp_path, rows), tmp_path / "shar", shard_size=4)
    chosen = recipe(data, "later", DataSource(str(tmp_path / "shar")), stage="shrinking", max_steps=2)
    train(chosen)
    assert len(tiny_runs.losses(chosen.output_dir)) == 2
    prepared = prepare(chosen, torch.device("cpu"), "no", main=False)
    assert prepared.stream is not None
    kinds = set()
    for items, _ in islice(prepared.stream.batches(0), 12):
        prepared.collator(items)
        kinds |= {bool(item.clips) for item in items}
        assert len(prepared.collator._tokenized) == 1
    assert kinds == {True, False}


# What is missing or broken


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> Path:
    """The Shar with its second shard cut off, and its third without sounds."""
    for file in (data / "shar").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tar = tmp_path / "recording.000001.tar"
    tar.write_bytes(tar.read_bytes()[:30_000])
    (tmp_path / "recording.000002.tar").unlink()
    return tmp_path


def test_broken_shards_are_named_and_the_run_goes_on(
    data: Path, spoilt: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = recipe(data, "spoilt", DataSource(str(spoilt)))
    train(chosen)
    told = capfd.readouterr().err
    assert told.count(f"skipped: {spoilt}/recording.000001.tar: ") == 1  # though each pass meets it
    assert told.count(f"skipped: {spoilt}/recording.000002.tar: No such file") == 1
    assert "skipped, each as named above: 2, met " in told.splitlines()[-1]
    assert len(tiny_runs.losses(chosen.output_dir)) == STEPS


def test_a_broken_shard_stops_the_run_where_the_recipe_says_so(data: Path, spoilt: Path) -> None:
    chosen = recipe(data, "stopped", DataSource(str(spoilt)), on_bad_shard="stop")
    with pytest.raises(TrainingError, match=r"recording\.00000[12]\.tar: .*set on_bad_shard=skip to leave it out"):
        train(chosen)


def test_a_shard_that_vanishes_between_two_starts_changes_nothing_else(data: Path, tmp_path: Path) -> None:
    for file in (data / "shar").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stream = stream_of(data, DataSource(str(tmp_path)), lanes=1, stream_buffer_size=1)
    before = drawn(stream, 0, 40)
    kept = stream.catalogue()
    for name in ("cuts.000003.jsonl.gz", "recording.000003.tar"):
        (tmp_path / name).unlink()
    again = stream_of(data, DataSource(str(tmp_path)), lanes=1, stream_buffer_size=1)
    again.use(kept)
    lost = {f"clip{i}" for i in range(12, 16)}
    assert drawn(again, 0, 32) == [name for name in before if name not in lost]


def test_shards_that_are_all_gone_stop_the_run(data: Path, tmp_path: Path) -> None:
    (tmp_path / "cuts.0.jsonl.gz").write_bytes(b"")
    (tmp_path / "cuts.1.jsonl.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(DataError, match="there is none that batch 0 can learn from"):
        next(stream_of(data, DataSource(str(tmp_path)), ctc_vocabulary_size=None).batches(0))


def test_a_bad_row_is_named_and_the_shard_goes_on(data: Path, tmp_path: Path) -> None:
    rows = tiny_runs.clips(tmp_path, 3)
    shard(tiny_runs.manifest_of(tmp_path, rows), tmp_path / "tars", layout="webdataset")
    tar = tmp_path / "tars" / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"role": "user"', b'"role": "cook"', 1))
    told: list[str] = []
    stream = stream_of(data, DataSource(str(tmp_path / "tars")), lanes=1, ctc_vocabulary_size=None)
    stream.skipped.say = told.append
    seen = {item.name[-1] for items, _ in islice(stream.batches(0), 9) for item in items}
    assert seen == {"2", "3"}
    (once,) = told
    assert once.startswith(f"skipped: {tar}:1: the role is 'cook'")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": "store"}, "features is store, but .*shar is streamed .*set features: null"),
        ({"max_steps": None}, "is streamed and has no end; set max_steps"),
    ],
)
def test_options_that_a_stream_cannot_have_are_told(data: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        train(recipe(data, "refused", **changes))


def test_more_lanes_than_examples_is_told(data: Path) -> None:
    stream = stream_of(data, DataSource(str(data / "few")), lanes=16)
    with pytest.raises(DataError, match="6 examples for 16 batches a step there is none that batch 15 can learn from"):
        next(stream.batches(15))


# Where shards may be


@pytest.mark.parametrize("place", ["shar/cuts.{000000..000004}.jsonl.gz", "tars/{000000..000004}.tar"])
@pytest.mark.parametrize("how", ["pipe:cat {}/", "{}/"])
def test_pipes_and_patterns_give_what_a_folder_gives(data: Path, how: str, place: str) -> None:
    local = names(stream_of(data, DataSource(str(data / place)), lanes=1), 0, 6)
    other = stream_of(data, DataSource(how.format(data) + place), lanes=1, allow_commands=True)
    other.sources[0].source.manifest = str(data / place)  # the order is drawn from the name
    assert names(other, 0, 6) == local


@pytest.mark.parametrize("place", ["shar/cuts.{000000..000004}.jsonl.gz", "tars/{000000..000004}.tar"])
def test_addresses_are_streamed(data: Path, place: str) -> None:
    pytest.importorskip("smart_open", reason="the package smart-open is not installed")
    pytest.importorskip("requests", reason="smart-open reads http with the package requests")
    with served(data) as address:
        stream = stream_of(data, DataSource(f"{address}/{place}"), lanes=1, stream_buffer_size=1)
        assert Counter(drawn(stream, 0, 20)) == Counter({f"clip{i}": 1 for i in range(20)})
        gone = DataSource(f"{address}/nowhere/{place}")
        with pytest.raises(DataError, match="none of its 5 shards can be read; the last: "):
            StreamSource.of(gone)


@pytest.mark.parametrize("command", ["cat {}/nowhere.tar", "head -c 40000 {}/tars/000001.tar", "false"])
def test_a_pipe_that_fails_or_ends_early_is_named(data: Path, command: str) -> None:
    whole = len(list(read_shard(Shard(None, f"pipe:cat {data}/tars/000001.tar"))))
    seen = []
    with pytest.raises(DataError, match=r"pipe:.*; copy or make this shard again"):
        seen.extend(read_shard(Shard(None, f"pipe:{command.format(data)}")))
    assert (whole, len(seen) < 4) == (4, True)


def test_patterns_are_expanded_as_a_shell_does() -> None:
    assert expanded("{a,b}/{08..10}.tar") == [f"{x}/{n}.tar" for x in "ab" for n in ("08", "09", "10")]
    assert find_shards("pipe:curl -s https://x.org/a/cuts.{0..1}.jsonl.gz", allow_commands=True)[1] == Shard(
        "pipe:curl -s https://x.org/a/cuts.1.jsonl.gz", "pipe:curl -s https://x.org/a/recording.1.tar"
    )


def test_a_process_reads_the_batches_that_are_its_own(data: Path) -> None:
    stream = stream_of(data, lanes=4)

    def collate(place: Place) -> Batch:
        return Batch([item.name for item in place.items])

    taken = [list(islice(stream.shares({}, 0, rank, 2, collate), 6)) for rank in (0, 1)]
    assert [share.place.index for share in taken[0]] == [0, 2, 4, 6, 8, 10]
    assert [share.after for share in taken[1]] == [(0, 2), (0, 4), (0, 6), (0, 8), (0, 10), (0, 12)]
    alone = list(islice(stream.shares({}, 0, 0, 1, collate), 12))
    assert [share.batch.names for share in alone] == [taken[i % 2][i // 2].batch.names for i in range(12)]
