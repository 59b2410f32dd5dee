"""The estimate of cost and memory: counts as of real models, sums as done by hand, honest about where each is from."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import tiny
import tiny_runs
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from soundwave.checkpoints.lora import attach_lora
from soundwave.cli.app import app
from soundwave.errors import ConfigurationError
from soundwave.training import loop
from soundwave.training.build import PAPER_LORA
from soundwave.training.collate import Batch
from soundwave.training.cost import estimate as sums
from soundwave.training.cost.estimate_table import clip_seconds, estimate, estimate_text, model_config, plain
from soundwave.training.loop import train_from_recipe
from soundwave.training.objective import StageModule
from soundwave.training.recipe import DataSource, Recipe
from soundwave.training.recipe_io import read_recipe
from soundwave.training.stages import ALIGNMENT, INSTRUCTION, SHRINKING, STAGES, Stage, mark_trained

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
LORA = dataclasses.replace(PAPER_LORA, r=4, lora_alpha=8)
PARTS = sums.Parameters(
    audio_tower=1000, alignment=100, ctc_head=50, shrinking=40, language_model=2000, lora=10, linear=1500, table=300
)
WORK = sums.Workload(clips=2, seconds=4.0, frames=200, aligned=100, positions=30, audio_positions=8, replied=10)


def lora_model(**switches: object) -> torch.nn.Module:
    model = tiny.model(tiny.config(**switches))
    attach_lora(model, LORA.r, LORA.lora_alpha, 0.0, LORA.target_modules)
    return model


@pytest.mark.parametrize("head", ["projection", "embeddings"])
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_parameters_are_those_of_a_real_model(stage: Stage, head: str) -> None:
    model = lora_model(ctc_head=head)
    parts = sums.count_parameters(model.config, LORA)
    assert parts.total == sum(p.numel() for p in model.parameters())
    trained = set(mark_trained(model, stage))
    assert parts.trained(stage) == sum(p.numel() for name, p in model.named_parameters() if name in trained)


def test_the_papers_stages_train_what_its_table_says() -> None:
    config, _ = model_config(read_recipe(ROOT / "recipes" / "paper" / "stage1.yaml"))
    parts = sums.count_parameters(config, PAPER_LORA)
    millions = {stage.name: round(parts.trained(stage) / 1e6) for stage in STAGES.values()}
    assert millions == {"alignment": 145, "shrinking": 266, "instruction": 122}
    assert parts.total == pytest.approx(9.4e9, rel=0.01)


def test_memory_is_the_sum_that_one_does_by_hand() -> None:
    config = tiny.config(ctc_head="projection")
    plain = Recipe(features="stored")
    two = sums.memory(config, plain, SHRINKING, PARTS, WORK)
    # trained: 100 + 40 + 10; frozen: CTC head and LLM at 2 bytes, and autocast's copy of what is trained
    assert (two.trained, two.gradients, two.optimizer) == (600, 600, 1200)
    assert two.frozen == 50 * 2 + 2000 * 2 + 150 * 2
    packed = sums.memory(config, dataclasses.replace(plain, llm_quantization="4bit"), SHRINKING, PARTS, WORK)
    assert two.frozen - packed.frozen == pytest.approx(1500 * (2 - 4.127 / 8))
    flying = sums.memory(config, dataclasses.replace(plain, features=None), SHRINKING, PARTS, WORK)
    assert flying.frozen - two.frozen == 1000 * 2
    three = sums.memory(config, plain, INSTRUCTION, PARTS, WORK)
    assert three.frozen == 100 * 4 + 50 * 2 + 2000 * 2 + 50 * 2  # the alignment adapter stays in float32
    one = sums.memory(config, plain, ALIGNMENT, PARTS, WORK, low_precision=False)
    assert one.frozen == 40 * 4 + 50 * 4 + 300 * 4  # of the LLM its table alone
    assert one.total == one.frozen + one.trained + one.gradients + one.optimizer + one.activations


def test_an_average_is_a_copy_of_what_is_trained_and_intermediate_ctc_scores_each_layer() -> None:
    config = tiny.config(alignment_layers=3)
    plain = sums.memory(config, Recipe(), SHRINKING, PARTS, WORK)
    averaged = sums.memory(config, Recipe(ema_decay=0.999), SHRINKING, PARTS, WORK)
    assert averaged.total - plain.total == (100 + 40 + 10) * 4
    between = Recipe(intermediate_ctc_weight=0.3)
    scores = WORK.clips * WORK.aligned * config.ctc_classes * sums.CTC_BYTES
    assert sums.memory(config, between, SHRINKING, PARTS, WORK).total - plain.total == 2 * scores
    passes = [sums.ctc_passes(config, recipe, SHRINKING) for recipe in (Recipe(), between)]
    heads = [sums.flops(config, SHRINKING, PARTS, WORK, ctc_passes=count).ctc_head for count in passes]
    assert heads[1] == 3 * heads[0]


def test_checkpointing_keeps_one_layer_and_every_layers_input() -> None:
    config = tiny.config()  # two layers of the LLM, 32 wide, ffn 48; 60 positions
    plain, saving = Recipe(), Recipe(gradient_checkpointing=True)
    saved = [sums.memory(config, one, INSTRUCTION, PARTS, WORK).activations for one in (plain, saving)]
    layer = 18 * 32 + 8 * 48 + 28 * 32
    assert saved[0] - saved[1] == 60 * (2 * layer - (layer + 2 * 2 * 32))


def test_a_batch_is_as_large_as_the_recipe_lets_it_be() -> None:
    recipe = Recipe(batch_seconds=120, max_batch_size=16)
    padded = sums.workload(tiny.config(encoder_window="padded", blank_handling="one_per_run"), recipe, 8.0)
    assert (padded.clips, padded.frames, padded.aligned) == (15, 1500, 750)
    assert padded.audio_positions == 2 * padded.replied + 1 == 53  # 26 tokens in 8 s, a blank around each
    dynamic = sums.workload(tiny.config(), recipe, 2.5)
    assert (dynamic.clips, dynamic.frames, dynamic.audio_positions) == (16, 150, 9)


def batch_of(clips: int, aligned: int, texts: int = 20) -> Batch:
    ids = torch.ones(clips, texts, dtype=torch.long)
    ids[:, 2] = tiny.config().audio_token_id
    labels = ids.masked_fill(torch.arange(texts) < texts - 6, -100)
    return Batch(
        ["x"] * clips, torch.randn(clips, 2 * aligned, tiny.ENCODER_WIDTH), torch.ones(clips, aligned).bool(),
        [[5, 6]] * clips, ids, torch.ones_like(ids), labels,
    )


@pytest.mark.parametrize(("stage", "tolerance"), [(ALIGNMENT, 0.06), (SHRINKING, 0.15)], ids=lambda v: str(v))
@pytest.mark.parametrize("whitening", [False, True])
def test_flops_are_near_those_that_torch_counts(stage: Stage, tolerance: float, whitening: bool) -> None:
    clips, aligned = 2, 40
    model = lora_model(
        ctc_head="projection", audio_embedding="look_back", blank_handling="drop", alignment_whitening=whitening
    )
    module = StageModule(model, stage, 0.3)
    mark_trained(model, stage)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it does not know the CPU's own
        losses = module(batch_of(clips, aligned))
        losses.total.backward()
    assert losses.paths is not None
    spoken = int((losses.paths[:, 1:] != losses.paths[:, :-1]).sum()) // clips + 1
    work = sums.Workload(clips, 1.6, 2 * aligned, aligned, 19 + spoken, spoken, 6)
    parts = sums.count_parameters(model.config, LORA)
    derived = clips * sums.flops(model.config, stage, parts, work, encode=False).total
    assert derived == pytest.approx(counter.get_total_flops(), rel=tolerance)


def test_recomputing_costs_the_llm_another_forward_pass() -> None:
    config = tiny.config()
    once, twice = (sums.flops(config, SHRINKING, PARTS, WORK, checkpointing=again) for again in (False, True))
    forward = 2 * 1500 * 30 + 2 * 30**2 * 32 * 2 + 2 * 10 * 30
    assert twice.total - once.total == forward
    assert once.audio_tower == 2 * 1000 * 200 + 4 * 200**2 * 16 * 2
    assert sums.flops(config, SHRINKING, PARTS, WORK, encode=False).audio_tower == 0


@pytest.mark.parametrize(
    ("number", "assumed"),
    [(1, "6,858 h in 3.04M clips"), (2, "8,710 h in 3.65M clips"), (3, "5,359 h in 2.65M clips")],
)
def test_the_papers_recipe_is_estimated_without_data_and_weights(number: int, assumed: str) -> None:
    text = estimate_text(ROOT / "recipes" / "paper" / f"stage{number}.yaml", [])
    assert "an estimate; nothing below was measured" in text
    assert "GPU-hours" in text
    rows = estimate(read_recipe(ROOT / "recipes" / "paper" / f"stage{number}.yaml"))
    assert all(row.how for row in rows)  # how each figure was derived
    assert any(row.how == f"assumed: the paper's {assumed} of this stage" for row in rows)
    assert re.search(r"\d[eE][+-]?\d", text) is None  # plain numbers


@pytest.mark.parametrize(
    ("number", "lines"),
    [(1, ["63 GB", "37 P", "21 h"]), (2, ["56 GB", "48 P", "27 h"]), (3, ["27 GB", "10 P", "3.8 h"])],
)
def test_the_documents_table_is_what_the_estimate_gives(number: int, lines: list[str]) -> None:
    rows = {row.what: row for row in estimate(read_recipe(ROOT / "recipes" / "paper" / f"stage{number}.yaml"))}
    size, unit = rows["FLOPs of a step"].value.split()
    hours = rows["  32 x A100 / A800 80 GB"].value.split("; ")[1].split(",")[0]
    assert lines == [f"{float(rows['memory of a device'].value.split()[0]):.0f} GB", f"{float(size):.0f} {unit}", hours]
    table = re.findall(r"^\| (I+) \| (\S+ GB)\b.*? \| (\S+ P) \| (\S+ h) \|", DOCUMENT, re.M)
    assert table[number - 1] == ("I" * number, *lines)


@pytest.mark.parametrize(("stages", "days", "percent"), [((1, 2), 4, 15), ((3,), 1, 5)])
def test_the_paper_ran_at_the_share_of_the_gpus_rate_that_the_document_states(
    stages: tuple[int, ...], days: int, percent: int
) -> None:
    recipes = [read_recipe(ROOT / "recipes" / "paper" / f"stage{number}.yaml") for number in stages]
    steps = [{row.what: row.value for row in estimate(recipe)}["FLOPs of a step"] for recipe in recipes]
    flops = sum(float(step.split()[0]) * 1e15 * (one.max_steps or 0) for step, one in zip(steps, recipes, strict=True))
    assert round(100 * flops / (days * 86_400 * 32 * 312e12)) == percent
    assert f"at {percent} % of that rate" in " ".join(DOCUMENT.split())


def test_a_gpu_on_which_the_run_does_not_fit_has_no_hours() -> None:
    rows = {row.what: row for row in estimate(read_recipe(ROOT / "recipes" / "paper" / "stage3.yaml"))}
    assert rows["  32 x RTX 4090 24 GB"].value == "does not fit"
    assert rows["  32 x RTX 4090 24 GB"].how.startswith("it needs 27.4 GB; lower batch_seconds or max_batch_size")
    assert "GPU-hours" in rows["  32 x L40S 48 GB"].value
    assert rows["memory of a device"].how.endswith("fits: A100 / A800 80 GB, H100 SXM 80 GB, L40S 48 GB")


def test_a_stage_that_does_not_run_the_llm_gives_it_no_tokens() -> None:
    told = {}
    for number in (1, 2):
        rows = {row.what: row for row in estimate(read_recipe(ROOT / "recipes" / "paper" / f"stage{number}.yaml"))}
        told[number] = rows["LLM tokens a step"]
    assert (told[1].value, told[1].how) == ("0", "the LLM is not run")
    assert told[2].value == f"{4096 * (80 + 57 + 28):,}"  # 28 tokens in 8.6 s, a blank around each


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1247.6, 3, "1,248"), (124.0, 2, "124"), (39.84, 3, "39.8"), (9.999, 3, "10.0"), (0.0123456, 3, "0.0123"),
        (0.0, 3, "0"), (5.0, 2, "5.0"), (3.1e9, 2, "3,100,000,000"),
    ],
)
def test_numbers_are_plain(value: float, digits: int, shown: str) -> None:
    assert plain(value, digits) == shown


def test_the_manifests_lengths_are_taken_where_they_are_at_hand(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path)
    seconds, how = clip_seconds(recipe)
    assert seconds == pytest.approx(0.85)
    assert how == "the mean of 8 durations in the manifests"
    seconds, _ = clip_seconds(dataclasses.replace(recipe, train=[DataSource("gone.jsonl")]))
    assert seconds == pytest.approx(6_858 * 3600 / 3.04e6)


@pytest.mark.parametrize(
    ("changes", "clips", "how"),
    [
        (["devices=32"], "8,192", "32 x 8 accumulated x 32 devices (devices=, batches_per_step=)"),
        (["devices=8"], "8,192", "32 x 32 accumulated x 8 devices (devices=, batches_per_step=)"),
        (
            ["devices=8", "batches_per_step=null", "gradient_accumulation_steps=8"], "2,048",
            "32 x 8 accumulated x 8 devices (devices=, gradient_accumulation_steps=)",
        ),
    ],
)
def test_clips_of_a_step_are_those_of_a_run_in_as_many_processes(changes: list[str], clips: str, how: str) -> None:
    rows = {row.what: row for row in estimate(read_recipe(ROOT / "recipes" / "paper" / "stage1.yaml", changes))}
    assert (rows["clips a step"].value, rows["clips a step"].how) == (clips, how)


def test_devices_that_cannot_share_a_step_are_a_mistake_that_is_told() -> None:
    with pytest.raises(ConfigurationError, match="batches_per_step is 256, which 24 processes cannot share equally"):
        estimate(read_recipe(ROOT / "recipes" / "paper" / "stage1.yaml", ["devices=24"]))


def test_unknown_sizes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="The sizes of org/llm are not known here; give a folder with"):
        estimate(Recipe(language_model="org/llm"))
    with pytest.raises(ConfigurationError, match=r"start_from=gone is not there, .* Train that stage first, or state"):
        estimate(Recipe(start_from="gone", language_model="org/llm"))


def test_a_dry_run_says_what_it_will_cost_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(tiny_runs.recipe(tmp_path))))
    train_from_recipe(path, [], dry_run=True)
    told = capsys.readouterr().err
    assert told.index("memory of a device") < told.index("encoding 8 clips")


def test_a_dry_run_of_a_model_whose_sizes_are_not_known_checks_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(recipe: Recipe) -> None:
        raise ConfigurationError("The sizes of org/llm are not known here.")

    monkeypatch.setattr(loop, "estimate", unknown)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(tiny_runs.recipe(tmp_path))))
    train_from_recipe(path, [], dry_run=True)
    told = capsys.readouterr().err
    assert "no estimate: The sizes of org/llm are not known here." in told
    assert "encoding 8 clips" in told


def test_the_command_needs_neither_data_nor_weights(capsys: pytest.CaptureFixture[str]) -> None:
    app(["train", str(ROOT / "recipes" / "paper" / "stage1.yaml"), "--estimate", "devices=8"], standalone_mode=False)
    assert "  8 x H100 SXM 80 GB" in capsys.readouterr().out


def test_a_small_model_is_not_promised_in_seconds() -> None:
    recipe = dataclasses.replace(read_recipe(ROOT / "recipes" / "mini" / "stage1.yaml"), train=[])
    told = {row.what.strip(): row for row in estimate(recipe)}
    gpu = told["1 x H100 SXM 80 GB"]
    assert gpu.value.startswith("0.10 s a step; 4.3 min")
    assert "starting kernels" in gpu.how
    assert told["optimizer"].how.startswith("Muon")
    assert told["trained weights"].value.endswith(" MB")
