"""The paper's recipe is the paper's: its hyper-parameters, its switches, its sizes."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from accelerate.commands.config.config_args import load_config_from_file

from soundwave.checkpoints.native import resolve_part
from soundwave.configuration import split_model_settings
from soundwave.errors import CheckpointError
from soundwave.training.build import lora_of
from soundwave.training.distributed import accumulation
from soundwave.training.recipe import Recipe
from soundwave.training.recipe_io import read_recipe

ROOT = Path(__file__).parents[1]
GPUS = 32


def stage(number: int) -> Recipe:
    return read_recipe(ROOT / "recipes" / "paper" / f"stage{number}.yaml")


@pytest.mark.parametrize(
    ("number", "name", "clips", "learning_rate", "steps"),
    [(1, "alignment", 8192, 1e-4, 6000), (2, "shrinking", 4096, 3e-5, 6000), (3, "instruction", 1024, 3e-5, 4000)],
)
def test_batches_rates_and_steps_are_those_of_its_table(
    number: int, name: str, clips: int, learning_rate: float, steps: int
) -> None:
    recipe = stage(number)
    assert recipe.stage == name
    assert recipe.devices == GPUS
    for gpus in (8, 16, GPUS):
        assert gpus * recipe.max_batch_size * accumulation(recipe, gpus) == clips
    assert recipe.batch_seconds == 30 * recipe.max_batch_size  # whole windows: the number of clips alone decides
    assert (recipe.learning_rate, recipe.max_steps) == (learning_rate, steps)
    assert (recipe.weight_decay, recipe.adam_beta2, recipe.warmup_ratio) == (0.1, 0.95, 0.01)
    assert recipe.ctc_weight == 0.3


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero1"])
@pytest.mark.parametrize(("number", "clips"), [(1, 8192), (2, 4096), (3, 1024)])
def test_the_printed_command_for_several_gpus_has_the_papers_batch(number: int, clips: int, name: str) -> None:
    path = ROOT / "recipes" / "paper" / f"stage{number}.yaml"
    command = f"recipes/paper/accelerate/ddp.yaml \\\n#     --no_python soundwave train recipes/paper/{path.name}\n"
    assert f"accelerate launch --config_file {command}" in path.read_text()
    processes = load_config_from_file(str(path.parent / "accelerate" / f"{name}.yaml")).num_processes
    assert processes * stage(number).max_batch_size * accumulation(stage(number), processes) == clips


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_stage_is_of_one_model_with_the_papers_switches(number: int) -> None:
    recipe = stage(number)
    assert recipe.model == stage(1).model
    assert recipe.audio_tower == "openai/whisper-large-v3"
    assert recipe.language_model == "meta-llama/Llama-3.1-8B-Instruct"
    split_model_settings(recipe.model)  # knows all of them
    wanted = {"alignment_attention": "temporal", "run_pooling": "peak", "look_back_over": "all_valid"}
    assert wanted.items() <= recipe.model.items()
    lora = lora_of(recipe, None)
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (64, 16, 0.05)
    assert recipe.start_from == (None if number == 1 else f"$RUNS/stage{number - 1}/final")


def test_stage_two_draws_its_four_tasks_by_the_papers_dynamic_mixture() -> None:
    recipe = stage(2)
    assert (recipe.mixture, recipe.mixture_temperature_step) == ("dynamic", 5)
    assert [source.task for source in recipe.train] == ["asr", "translation", "sound", "text"]
    assert {source.repeat for source in recipe.train} == {1.0}  # a task's size is that of its data


def test_the_other_stages_draw_every_example_alike_as_in_the_paper() -> None:
    assert [stage(number).mixture for number in (1, 3)] == ["none", "none"]
    assert {source.repeat for number in (1, 3) for source in stage(number).train} == {1.0}


def test_a_part_may_be_a_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def snapshot_download(hub_id: str, **options: list[str]) -> str:
        asked[hub_id] = options
        return str(tmp_path)

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_part("openai/whisper-large-v3") == tmp_path
    assert "*fp32*" in asked["openai/whisper-large-v3"]["ignore_patterns"]  # large-v3 has a second copy in float32
    assert resolve_part(str(tmp_path)) == tmp_path


def test_a_part_that_nobody_knows_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"There is no part 'whisper-bas', and .* Did you mean 'whisper-base'"):
        resolve_part("whisper-bas")
