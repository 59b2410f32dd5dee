"""Audio and conversations to the tensors of `SoundwaveForConditionalGeneration`."""

# N audios, M mel bins, T mel frames (100 Hz), R rows (conversations), L tokens

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.utils import cached_file

from soundwave.audio import SAMPLE_RATE, load_audio
from soundwave.configuration import AUDIO_TOKEN, SoundwaveConfig
from soundwave.errors import AudioTooLongError, ConfigurationError
from soundwave.inference_config import FILE_NAME as INFERENCE_FILE
from soundwave.inference_config import MOVED, InferenceConfig
from soundwave.text.prompt import TokenizedPrompt, Turn, render_turns, tokenize_turns, turns_of
from soundwave.text.tokenizing import token_ids

WINDOW_SECONDS = 30.0  # Whisper's window
SAMPLES_PER_MEL_FRAME = 160  # 10 ms
MEL_WINDOW_SAMPLES = 400  # 25 ms
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")  # of transformers


class SoundwaveProcessor(ProcessorMixin):
    """Log-mel features and prompts as one model expects them.

    Args:
        feature_extractor: a `WhisperFeatureExtractor`.
        tokenizer: the LLM's tokenizer, with `audio_token` as one token.
        encoder_window: `padded` (30 s) or `dynamic` (the audio and a tail of silence).
        window_tail_seconds: that tail.
        frames_per_group: encoder frames per aligned frame; a dynamic window is a whole number of aligned frames.
        audio_token: the placeholder's text.

    Attributes:
        inference: the model's prompts; `save_pretrained` writes them as inference.json, `from_pretrained` reads them.
    """

    def __init__(
        self, feature_extractor: Any = None, tokenizer: Any = None, encoder_window: str = "dynamic",
        window_tail_seconds: float = 0.5, frames_per_group: int = 2, audio_token: str = AUDIO_TOKEN,
        chat_template: str | None = None, **kwargs: Any,
    ):
        self.encoder_window = encoder_window
        self.window_tail_seconds = window_tail_seconds
        self.frames_per_group = frames_per_group
        self.audio_token = audio_token
        # what processor_config.json of older versions holds
        self.inference = InferenceConfig().changed({name: kwargs.pop(name) for name in MOVED if name in kwargs})
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template, **kwargs)

    @classmethod
    def for_config(
        cls, config: SoundwaveConfig, inference: InferenceConfig, feature_extractor: Any, tokenizer: Any, **changes: Any
    ) -> Any:
        """A processor that fits a model; new models get the placeholder added to their tokenizer.

        Raises:
            ConfigurationError: the tokenizer, or the feature extractor, is of another model.
        """
        audio_token = changes.get("audio_token", AUDIO_TOKEN)
        tokenizer.add_special_tokens({"additional_special_tokens": [audio_token]})
        if tokenizer.convert_tokens_to_ids(audio_token) != config.audio_token_id:
            raise ConfigurationError(
                f"The tokenizer gives {audio_token} the id {tokenizer.convert_tokens_to_ids(audio_token)}, but the "
                f"model's audio_token_id is {config.audio_token_id}; use the tokenizer that the model was trained with."
            )
        names = ("encoder_window", "window_tail_seconds", "frames_per_group")
        made = cls(feature_extractor, tokenizer, **{name: getattr(config, name) for name in names} | changes)
        made.inference = inference
        made.check(config)
        return made

    def check(self, config: SoundwaveConfig) -> None:
        """Refuses a feature extractor that is not Whisper's of this encoder: its frames would be of other lengths.

        Raises:
            ConfigurationError: with what is needed.
        """
        needed = {
            "sampling_rate": SAMPLE_RATE, "hop_length": SAMPLES_PER_MEL_FRAME,
            "feature_size": config.audio_config.num_mel_bins, "n_fft": MEL_WINDOW_SAMPLES,
        }
        for name, value in needed.items():
            given = getattr(self.feature_extractor, name, None)
            if given != value:
                raise ConfigurationError(
                    f"The feature extractor's {name} is {given!r}, but this model's encoder needs {value}; restore "
                    "preprocessor_config.json or processor_config.json as it was saved."
                )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """As in transformers, without any code of the folder; the prompts are those of inference.json, if it is there.

        Raises:
            CheckpointError: inference.json is broken.
        """
        options.pop("trust_remote_code", None)
        made = super().from_pretrained(pretrained_model_name_or_path, trust_remote_code=False, **options)
        source = {name: options[name] for name in HUB_OPTIONS if name in options}
        file = cached_file(
            pretrained_model_name_or_path, INFERENCE_FILE, _raise_exceptions_for_missing_entries=False, **source
        )
        if file is not None:
            made.inference = InferenceConfig.read(Path(file).parent)
        return made

    def save_pretrained(self, save_directory: Any, **options: Any) -> Any:
        """As in transformers, and inference.json."""
        written = super().save_pretrained(save_directory, **options)
        self.inference.write(Path(save_directory))
        return written

    def window_samples(self, samples: int) -> int:
        """Length of the encoder's window for a clip, both in samples at 16 kHz: a whole number of aligned frames."""
        longest = int(WINDOW_SECONDS * SAMPLE_RATE)
        if self.encoder_window == "padded":
            return longest
        step = 2 * SAMPLES_PER_MEL_FRAME * self.frames_per_group
        wanted = samples + int(self.window_tail_seconds * SAMPLE_RATE)
        return min(-(-wanted // step) * step, longest // step * step)

    def log_mel(self, samples: np.ndarray) -> np.ndarray:
        """(samples,) float32 at 16 kHz to (M, T) log-mel of the clip's window.

        Raises:
            AudioTooLongError: more than 30 s; nothing is ever cut.
        """
        window = self.window_samples(len(samples))
        if len(samples) > window:
            seconds = len(samples) / SAMPLE_RATE
            raise AudioTooLongError(
                f"The audio has {seconds:.1f} s; at most {WINDOW_SECONDS:.0f} s fit the encoder: split it into shorter "
                "pieces.", seconds, WINDOW_SECONDS,
            )  # fmt: skip
        padded = np.zeros(window, dtype=np.float32)
        padded[: len(samples)] = samples
        features = self.feature_extractor(
            padded, sampling_rate=SAMPLE_RATE, padding="do_not_pad", truncation=False, return_tensors="np"
        )
        return features["input_features"][0]

    def features(self, clips: Sequence[np.ndarray]) -> BatchFeature:
        """Clips to `input_features` (N, M, T) float32, zero at padding, and `feature_attention_mask` (N, T) bool."""
        mels = [self.log_mel(clip) for clip in clips]
        longest = max(mel.shape[1] for mel in mels)
        batch = np.zeros((len(mels), mels[0].shape[0], longest), dtype=np.float32)
        mask = np.zeros((len(mels), longest), dtype=bool)
        for i, mel in enumerate(mels):
            batch[i, :, : mel.shape[1]] = mel
            mask[i, : mel.shape[1]] = True
        return BatchFeature(
            {"input_features": torch.from_numpy(batch), "feature_attention_mask": torch.from_numpy(mask)}
        )

    def tokenize(self, conversation: list[dict[str, Any]], reply: bool = True) -> TokenizedPrompt:
        """One conversation to ids (placeholders included) and the mask of the assistant's tokens."""
        turns, _ = self._turns(conversation)
        return self._tokenize(turns, reply)

    def _tokenize(self, turns: list[Turn], reply: bool) -> TokenizedPrompt:
        return tokenize_turns(self.tokenizer, turns, self.inference.prompt_format, self.audio_token, reply)

    def _turns(self, conversation: list[dict[str, Any]]) -> tuple[list[Turn], list[Any]]:
        """Turns and audio parts, with the model's system turn where audio comes without one."""
        turns, audios = turns_of(conversation)
        system = self.inference.audio_system_prompt
        if audios and system is not None and turns[0].role != "system":
            turns.insert(0, Turn("system", (system,)))
        return turns, audios

    def __call__(
        self, text: str | list[str] | None = None, audio: Any = None, sampling_rate: int = SAMPLE_RATE, **_: Any
    ) -> BatchFeature:
        """Rendered prompts with placeholders, and their audio, to tensors.

        Args:
            text: prompts that hold one placeholder per audio; None: audio features only.
            audio: one audio or a list, each a path, bytes, a file object, `(samples, rate)` or samples.
            sampling_rate: of bare samples.
        """
        prompts = [text] if isinstance(text, str) else list(text or [])
        ids = [token_ids(self.tokenizer, prompt) for prompt in prompts]
        return self._batch(ids, [] if audio is None else _audio_list(audio, sampling_rate))

    def apply_chat_template(
        self, conversation: list[Any], add_generation_prompt: bool = True, tokenize: bool = True, **_: Any
    ) -> Any:
        """One conversation, or a list of them, to tensors (or to text with `tokenize=False`, chat templates only).

        Audio parts: `{"type": "audio", "audio" | "path" | "url" | "base64": …}` or OpenAI's `input_audio`.

        Raises:
            ConfigurationError: a role, part or placeholder that is not allowed.
            AudioError: an audio that cannot be used.
        """
        many = conversation if conversation and isinstance(conversation[0], list) else [conversation]
        rows, audios = [], []
        for messages in many:
            turns, parts = self._turns(messages)
            rows.append(turns)
            audios += [audio_of_part(part) for part in parts]
        if not tokenize and self.inference.prompt_format == "released":
            raise ConfigurationError(
                "The released prompt has no text form, because a BOS stands before each of its pieces; "
                "use tokenize=True."
            )
        if not tokenize:
            texts = [render_turns(self.tokenizer, turns, self.audio_token, add_generation_prompt) for turns in rows]
            return texts if many is conversation else texts[0]
        ids = [self._tokenize(turns, add_generation_prompt).ids for turns in rows]
        return self._batch(ids, audios)

    def apply_transcription_request(self, audio: Any, prompt: str | None = None) -> BatchFeature:
        """Tensors that ask for the transcript of one audio, or of each of a list."""
        many = audio if isinstance(audio, list) else [audio]
        instruction = prompt or self.inference.transcribe_prompt
        return self.apply_chat_template(
            [[{"role": "user", "content": [{"type": "audio", "audio": one}, {"type": "text", "text": instruction}]}]
             for one in many]
        )

    def _batch(self, ids: list[list[int]], audios: list[Any]) -> BatchFeature:
        longest = max((len(row) for row in ids), default=0)
        pad = self.tokenizer.pad_token_id or 0
        padded = [[pad] * (longest - len(row)) + row for row in ids]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
        batch = BatchFeature({"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)} if ids else {})
        if audios:
            batch.update(self.features([load_audio(audio) for audio in audios]))
        return batch


def _audio_list(audio: Any, sampling_rate: int) -> list[Any]:
    many = audio if isinstance(audio, list) else [audio]
    return [(one, sampling_rate) if isinstance(one, (np.ndarray, torch.Tensor)) else one for one in many]


def audio_of_part(part: dict[str, Any]) -> Any:
    """The recording that an audio part of a message holds, for `load_audio`.

    Raises:
        ConfigurationError: it holds none.
    """
    nested = part.get("input_audio") or part.get("audio_url")
    if isinstance(nested, str):
        return nested
    if isinstance(nested, dict):
        data = nested.get("data") or nested.get("url")
        return f"data:audio/{nested.get('format', 'wav')};base64,{data}" if nested.get("data") else data
    for key in ("audio", "path", "url", "base64"):
        if part.get(key) is not None:
            value = part[key]
            if key == "base64":
                return f"data:audio/wav;base64,{value}"
            return (value, SAMPLE_RATE) if isinstance(value, (np.ndarray, torch.Tensor)) else value
    raise ConfigurationError(
        "An audio part holds no audio; give it under 'audio', 'path', 'url', 'base64' or 'input_audio'."
    )


AutoProcessor.register(SoundwaveConfig, SoundwaveProcessor)
