"""Soundwave: a speech encoder and any causal LM as one model of transformers (paper section 3, Figure 2).

Composition only: no losses (`training.losses`), no text (`processing`), no request state. Of files it knows those that
transformers' `save_pretrained` and `from_pretrained` write and read; other folders are read in `checkpoints`.
"""

# N audios, M mel bins, T mel frames, F aligned frames (25 Hz), S audio positions
# R rows (conversations), L token positions, D LLM width, V LLM vocabulary

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import cached_file

from soundwave.configuration import SoundwaveConfig
from soundwave.errors import CheckpointError, ConfigurationError
from soundwave.inference_config import TextOnly
from soundwave.model.adapters import AlignmentAdapter, ShrinkingAdapter
from soundwave.model.lora import DEFAULT, lora_names, read_lora, switch_lora, write_lora
from soundwave.model.speech_encoder import SpeechEncoder, SpeechOutput
from soundwave.model.splice import Spliced, splice
from soundwave.model.whisper import FACTORS, fresh_upper, make_tower, merged_weights

LORA_FOLDER = "lora"  # of a saved model: a PEFT folder
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


@dataclass(frozen=True)
class SoundwaveOutput:
    """Result of `forward`.

    Attributes:
        logits: (R, L, V); with labels, (targets, V): only the positions that predict a target.
        targets: (targets,) the token ids to predict, or None without labels.
        rows: (targets,) the row of each target, or None without labels.
        speech: the speech encoder's output, None for a batch without audio.
    """

    logits: Tensor
    targets: Tensor | None
    rows: Tensor | None
    speech: SpeechOutput | None


class SoundwaveForConditionalGeneration(PreTrainedModel):
    """The whole model. Inputs come from `SoundwaveProcessor`; `generate` returns the new tokens only."""

    config_class = SoundwaveConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["WhisperEncoderLayer", "AlignmentLayer", "LlamaDecoderLayer"]

    def __init__(self, config: SoundwaveConfig):
        super().__init__(config)
        self.audio_tower = make_tower(config)
        self.alignment = AlignmentAdapter(config)
        self.shrinking = ShrinkingAdapter(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config, trust_remote_code=False)
        self.post_init()

    @classmethod
    def fresh_adapters(cls, config: SoundwaveConfig, seed: int) -> dict[str, Tensor]:
        """Untrained values of all that training adds, by full name, on the CPU, the same for the same seed."""
        torch.manual_seed(seed)
        parts = {"alignment": AlignmentAdapter(config), "shrinking": ShrinkingAdapter(config)}
        states = {part: module.state_dict() for part, module in parts.items()}
        values = {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}
        return values | fresh_upper(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **options: Any) -> Any:
        """As in transformers, for folders that `save_pretrained` wrote; a LoRA that was attached then is again.

        Code of the folder is never run, whatever `trust_remote_code` says.

        Raises:
            ConfigurationError: the folder holds only what was trained, without the frozen parts.
            CheckpointError: the LoRA that belongs to the model is missing.
        """
        source = {name: options[name] for name in HUB_OPTIONS if name in options}
        config = options.get("config") or SoundwaveConfig.from_pretrained(
            pretrained_model_name_or_path, trust_remote_code=False, **source
        )
        if config.language_model_source is not None:
            raise ConfigurationError(
                f"{pretrained_model_name_or_path} holds only what was trained over {config.audio_tower_source} and "
                f"{config.language_model_source}; load it with soundwave.load({str(pretrained_model_name_or_path)!r})."
            )
        options.pop("trust_remote_code", None)
        model = super().from_pretrained(pretrained_model_name_or_path, *args, trust_remote_code=False, **options)
        defaults = _file_of(pretrained_model_name_or_path, "generation_config.json", source)
        if defaults is not None:
            model.language_model.generation_config = GenerationConfig.from_pretrained(
                defaults.parent, trust_remote_code=False
            )
        lora = _file_of(pretrained_model_name_or_path, f"{LORA_FOLDER}/adapter_config.json", source)
        if lora is None and config.lora:
            raise CheckpointError(
                f"{pretrained_model_name_or_path} lacks the folder {LORA_FOLDER}/, which config.json says belongs to "
                "it; copy the whole folder of the model again."
            )
        if lora is not None:
            _file_of(pretrained_model_name_or_path, f"{LORA_FOLDER}/adapter_model.safetensors", source)
            model.attach_lora(lora.parent)
        return model.eval()

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> None:
        """Writes everything: config.json, all weights under their plain names and, apart, an attached LoRA.

        Args:
            save_directory: made when missing.
            options: as in transformers.

        Raises:
            ConfigurationError: a LoRA is merged into the weights and still attached; it would be applied twice.
        """
        if any(getattr(module, "merged", False) for module in self.language_model.modules()):
            raise ConfigurationError(
                "A LoRA is merged into the weights and still attached; call unmerge_lora, or fold_lora to keep it in."
            )
        weights = {
            name.replace(".base_layer.", "."): value
            for name, value in self.state_dict().items()
            if ".lora_" not in name and not (name.startswith("audio_tower.") and name.endswith(FACTORS))
        }
        weights |= {f"audio_tower.{name}": value for name, value in merged_weights(self.audio_tower).items()}
        super().save_pretrained(save_directory, state_dict=weights, **options)
        complete = copy.deepcopy(self.config)
        complete.audio_tower_source = complete.language_model_source = None  # the folder holds both
        complete.encoder_training = "none"  # what it learned is in its weights
        complete.lora = self.has_lora
        complete.save_pretrained(save_directory)
        mode = Path(save_directory, "config.json").stat().st_mode & 0o777  # as the umask has it
        for file in Path(save_directory).glob("*.safetensors"):
            file.chmod(mode)  # safetensors makes files that only their owner can read
        self.language_model.generation_config.save_pretrained(save_directory)
        if self.has_lora:
            for name in lora_names(self.language_model):
                inner = [] if name == DEFAULT else [name]  # as PEFT lays several
                write_lora(self.language_model, Path(save_directory, LORA_FOLDER, *inner), name)

    def attach_lora(self, folder: Path, trainable: bool = False, name: str = "default") -> None:
        """Attaches the LoRA of a PEFT folder to the LLM (safetensors only) and lets it be the one in use."""
        read_lora(self.language_model, folder, trainable, name)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @property
    def speech_encoder(self) -> SpeechEncoder:
        """The front end by itself, over this model's own modules."""
        table = self.get_input_embeddings() if self.config.needs_token_table else None
        parts = {"audio_tower": self.audio_tower, "alignment": self.alignment, "shrinking": self.shrinking}
        return SpeechEncoder(self.config, parts | {"token_table": table})

    def encode_speech(
        self, input_features: Tensor | None = None, feature_attention_mask: Tensor | None = None,
        encoder_frames: Tensor | None = None, frame_mask: Tensor | None = None, aligned_frames: Tensor | None = None,
    ) -> SpeechOutput:
        """Log-mel, stored encoder frames or aligned ones to audio embeddings; see `SpeechEncoder.forward`."""
        return self.speech_encoder(input_features, feature_attention_mask, encoder_frames, frame_mask, aligned_frames)

    def get_audio_features(self, input_features: Tensor, feature_attention_mask: Tensor | None = None) -> list[Tensor]:
        """Per audio the (S_i, D) embeddings that replace its placeholder."""
        return self.encode_speech(input_features, feature_attention_mask).kept()

    def _audio_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(R, L) True at placeholders; in the padding any token may stand."""
        found = input_ids == self.config.audio_token_id
        return found if attention_mask is None else found & attention_mask.bool()

    def _spliced(
        self, input_ids: Tensor, attention_mask: Tensor | None, audio: list[Tensor],
        labels: Tensor | None = None, left: bool = True,
    ) -> Spliced:
        placeholders = int(self._audio_positions(input_ids, attention_mask).sum())
        if placeholders != len(audio):
            raise ConfigurationError(
                f"The prompts hold {placeholders} audio placeholders (token {self.config.audio_token_id}), but "
                f"{len(audio)} audios were given; each placeholder needs one audio."
            )
        present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        row_ids = [ids[keep.bool()] for ids, keep in zip(input_ids, present, strict=True)]
        row_labels = None
        if labels is not None:
            row_labels = [row[keep.bool()] for row, keep in zip(labels, present, strict=True)]
        table = self.get_input_embeddings()
        rows = [table(torch.where(ids == self.config.audio_token_id, 0, ids)) for ids in row_ids]
        return splice(rows, row_ids, audio, self.config.audio_token_id, row_labels, left)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None, encoder_frames: Tensor | None = None,
        frame_mask: Tensor | None = None, labels: Tensor | None = None, aligned_frames: Tensor | None = None,
    ) -> SoundwaveOutput:
        """Next-token logits.

        Args:
            input_ids: (R, L) with one placeholder per audio; audios belong to placeholders in row order.
            attention_mask: (R, L) 1 for real tokens.
            input_features, feature_attention_mask, encoder_frames, frame_mask, aligned_frames: as in `encode_speech`.
            labels: (R, L) target ids aligned with `input_ids`, -100 where there is none.

        Raises:
            ConfigurationError: placeholders and audios differ in number.
        """
        speech = None
        if any(given is not None for given in (input_features, encoder_frames, aligned_frames)):
            speech = self.encode_speech(
                input_features, feature_attention_mask, encoder_frames, frame_mask, aligned_frames
            )
        audio = speech.kept() if speech else []
        spliced = self._spliced(input_ids, attention_mask, audio, labels, left=False)
        decoder = self.language_model.get_decoder()
        hidden = decoder(inputs_embeds=spliced.embeddings, attention_mask=spliced.mask, use_cache=False)[0]
        head = self.get_output_embeddings()
        if spliced.labels is None:
            return SoundwaveOutput(head(hidden), None, None, speech)
        shifted = spliced.labels[:, 1:]
        rows, columns = (shifted != -100).nonzero(as_tuple=True)
        return SoundwaveOutput(head(hidden[rows, columns]), shifted[rows, columns], rows, speech)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None, audio_embeddings: list[Tensor] | None = None,
        text_only: TextOnly = "plain", **options: Any,
    ) -> Tensor:
        """Continues the prompts with the LLM's own `generate`.

        Args:
            input_ids, attention_mask, input_features, feature_attention_mask: from the processor.
            audio_embeddings: per audio (S_i, D) instead of features: what `get_audio_features` gave.
            text_only: by which LLM rows without audio are answered: without LoRA (`plain`), or with it (`adapted`).
            options: anything of transformers' `generate` (do_sample, temperature, max_new_tokens, streamer…).

        Returns:
            (R, new tokens) ids without the prompt, padded with the pad token.
        """
        if audio_embeddings is None:
            audio_embeddings = []
            if input_features is not None:
                audio_embeddings = self.get_audio_features(input_features, feature_attention_mask)
        has_audio = self._audio_positions(input_ids, attention_mask).any(1)
        if text_only == "adapted" or not self.has_lora or bool(has_audio.all()):
            return self._continue(input_ids, attention_mask, audio_embeddings, options)
        results: list[Tensor] = [torch.empty(0)] * len(input_ids)
        for chosen, audio in ((has_audio, audio_embeddings), (~has_audio, [])):
            rows = chosen.nonzero().flatten()
            if not len(rows):
                continue
            mask = None if attention_mask is None else attention_mask[rows]
            with self.plain_language_model(bool(has_audio[rows[0]])):
                answers = self._continue(input_ids[rows], mask, audio, options)
            for row, answer in zip(rows.tolist(), answers, strict=True):
                results[row] = answer
        pad = options.get("pad_token_id", self.language_model.generation_config.pad_token_id) or 0
        return nn.utils.rnn.pad_sequence(results, batch_first=True, padding_value=pad)

    @property
    def has_lora(self) -> bool:
        """Whether a PEFT adapter is attached to the LLM."""
        return bool(lora_names(self.language_model))

    @contextmanager
    def plain_language_model(self, adapted: bool = False) -> Iterator[None]:
        """Within it the LLM runs without LoRA (or with it, where `adapted`)."""
        if adapted or not self.has_lora:
            yield
            return
        trained = [(parameter, parameter.requires_grad) for parameter in self.language_model.parameters()]
        switch_lora(self.language_model, False)
        try:
            yield
        finally:
            switch_lora(self.language_model, True)
            for parameter, requires_grad in trained:  # PEFT marks every LoRA as trained when it is switched on
                parameter.requires_grad_(requires_grad)

    def _continue(
        self, input_ids: Tensor, attention_mask: Tensor | None, audio: list[Tensor], options: dict[str, Any]
    ) -> Tensor:
        spliced = self._spliced(input_ids, attention_mask, audio)
        return self.language_model.generate(
            inputs_embeds=spliced.embeddings, attention_mask=spliced.mask, **options
        )


def _file_of(name_or_path: str | os.PathLike, file: str, source: dict[str, Any]) -> Path | None:
    """A file of a folder or of a model on the hub; None where there is none of that name."""
    found = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **source)
    return None if found is None else Path(found)


AutoModel.register(SoundwaveConfig, SoundwaveForConditionalGeneration)
AutoModelForCausalLM.register(SoundwaveConfig, SoundwaveForConditionalGeneration)
