"""A trained model on the Hugging Face hub: its repository is made before the first step, it goes there at the end."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from soundwave.configuration import SoundwaveConfig
from soundwave.errors import ConfigurationError, TrainingError
from soundwave.training.recipe import Recipe


def make_repository(recipe: Recipe, config: SoundwaveConfig) -> None:
    """Makes the repository that the recipe names, unless it is there: a token that may not is told in minute one.

    Raises:
        ConfigurationError: the hub refuses, or the model stands on a folder that nobody else has.
    """
    if parts := local_parts(config):
        raise ConfigurationError(
            f"push_to_hub is true, but what is trained stands on {' and '.join(parts)}, which others do not have; set "
            "push_to_hub=false, and upload what `soundwave export` makes of the run."
        )
    try:
        HfApi().create_repo(str(recipe.hub_model_id), private=recipe.hub_private_repo, exist_ok=True)
    except Exception as error:  # the hub client raises whatever its HTTP library does
        raise ConfigurationError(
            f"hub_model_id={recipe.hub_model_id} cannot be made ({_told(error)}); log in with `hf auth login` or "
            "HF_TOKEN, with a token that may write, or set push_to_hub=false."
        ) from error


def local_parts(config: SoundwaveConfig) -> list[str]:
    """The folders of this machine that a trained model needs beside its own."""
    named = (config.audio_tower_source, config.language_model_source)
    return [source for source in named if source is not None and Path(source).is_dir()]


def push(recipe: Recipe, folder: Path) -> str:
    """Uploads a finished model; returns its address.

    Raises:
        TrainingError: the hub cannot be reached or refuses; the folder stays as it is.
    """
    try:
        done = HfApi().upload_folder(
            repo_id=str(recipe.hub_model_id), folder_path=str(folder), commit_message="Trained by soundwave train"
        )
    except Exception as error:  # likewise
        raise TrainingError(
            f"{folder} could not be uploaded to {recipe.hub_model_id} ({_told(error)}); start the same command again: "
            "nothing but that is left to do."
        ) from error
    return str(done.commit_url)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
