"""Texts to the tokens of a language model and to CTC classes, without the weights: a tokenizer file and a config.

transformers is not needed, so that counting the tokens of a manifest starts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer

from soundwave.checkpoints.catalog import part_folder, resolve_model
from soundwave.checkpoints.parts import PARTS
from soundwave.errors import ConfigurationError
from soundwave.inference_config import RELEASED, InferenceConfig, read_json
from soundwave.text.ctc_tokenizer import CtcTokenizer
from soundwave.text.tokenizing import token_ids

DEFAULT_MODEL = "smollm2-135m-instruct"
ENCODER_FRAMES_PER_SECOND = 50
MOST_ENCODER_FRAMES = 1500  # 30 s


class _Words:
    """A tokenizers.Tokenizer behind the calls that `CtcTokenizer` makes on a tokenizer of transformers."""

    def __init__(self, tokenizer: Tokenizer):
        self.backend_tokenizer = tokenizer

    def __call__(self, text: str, add_special_tokens: bool, split_special_tokens: bool) -> SimpleNamespace:
        self.backend_tokenizer.encode_special_tokens = split_special_tokens
        return SimpleNamespace(input_ids=self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)


@dataclass(frozen=True)
class Spelling:
    """How one model spells.

    Attributes:
        language_model: the folder of the tokenizer.
        config: the model's config.json where it is one of ours, else empty.
        inference: the model's prompts.
        ctc: words to CTC classes.
    """

    language_model: Path
    config: dict[str, Any]
    ctc: CtcTokenizer
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    @cached_property
    def reserved(self) -> tuple[str, ...]:
        """The tokens that mean more than their text: ends of turns, placeholders, marks of the vocabulary's own."""
        added = self.ctc.tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    def tokens(self, text: str) -> list[int]:
        """The language model's own tokens of a text, without special ones."""
        return token_ids(self.ctc.tokenizer, text)

    def piece(self, ctc_class: int) -> str:
        """What one CTC class writes, its leading blank kept."""
        token = ctc_class if self.ctc.vocabulary is None else self.ctc.vocabulary[ctc_class]
        return self.ctc.tokenizer.backend_tokenizer.decode([token], skip_special_tokens=False)

    def frames(self, seconds: float) -> int:
        """Aligned frames of a recording: the tail of silence included, a padded window (released) always 30 s."""
        group = int(self.config.get("frames_per_group", 2))
        if self.config.get("encoder_window", "dynamic") == "padded":
            return MOST_ENCODER_FRAMES // group
        window = seconds + float(self.config.get("window_tail_seconds", 0.5))
        return min(-(-round(window * ENCODER_FRAMES_PER_SECOND * 1000) // (1000 * group)), MOST_ENCODER_FRAMES // group)


def load_spelling(
    model: str = DEFAULT_MODEL, progress: Callable[[str, int, int | None], None] | None = None
) -> Spelling:
    """The spelling of a part of the catalog, of `mini`, or of the folder or hub id of a model.

    A model of ours brings its own CTC vocabulary; a bare language model's CTC is its whole vocabulary.

    Raises:
        CheckpointError: there is no such model.
        ConfigurationError: it has no fast tokenizer.
    """
    folder = part_folder(model, progress=progress) if model in PARTS else resolve_model(model)
    config, own = read_json(folder / "config.json"), folder
    vocabulary, inference = None, InferenceConfig()
    if str(config.get("model_type")) == "soundwave":
        vocabulary, inference = config.get("ctc_vocabulary"), InferenceConfig.read(own)
        if (source := config.get("language_model_source")) is not None:
            folder = Path(source) if Path(source).is_dir() else part_folder(source, progress=progress)
    elif str(config.get("model_type")).lower() == "soundwave":  # the released format
        config, inference = {**config, "encoder_window": "padded"}, RELEASED
    else:
        config = {}
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigurationError(
            f"{model}: {folder} has no tokenizer.json; give a language model with a fast tokenizer, such as "
            f"{DEFAULT_MODEL}."
        )
    return Spelling(folder, config, CtcTokenizer(_Words(Tokenizer.from_file(str(file))), vocabulary), inference)
