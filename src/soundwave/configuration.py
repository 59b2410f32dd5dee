"""The shape of a Soundwave model, and every switch of its design, as one Hugging Face configuration.

Each switch names the released 9B model's choice and the paper's, because they differ (paper section 3; released code);
the released ones together are the preset `released`. This module knows names and numbers only: no tensors, no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal, get_args

from transformers import AutoConfig, PreTrainedConfig, WhisperConfig

from soundwave.errors import ConfigurationError
from soundwave.inference_config import DELETED, MOVED, InferenceConfig, implied, refuse_unknown
from soundwave.settings import check_settings, setting

AlignmentAttention = Literal["frame", "temporal"]
LookBackOver = Literal["kept", "all_valid"]
RunPooling = Literal["first", "peak", "mean"]
BlankHandling = Literal["one_per_run", "drop", "pool"]
EncoderWindow = Literal["padded", "dynamic"]
CtcHead = Literal["projection", "embeddings"]
AudioEmbedding = Literal["look_back", "posterior"]
AdapterPositions = Literal["none", "rotary"]
EncoderTraining = Literal["none", "lora", "full"]

AUDIO_TOKEN = "<|audio|>"  # the placeholder in prompts of newly trained models
SECONDS_PER_ENCODER_FRAME = 0.02
MOST_LAYERS = 1000  # of any part; public models have about a hundred
RUNS_CODE = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "_commit_hash")

PRESETS: dict[str, dict[str, Any]] = {
    "released": {  # the public 9B's quirks, on which its weights depend (docs/released-format.md)
        "alignment_whitening": False, "alignment_convolution": 0, "alignment_attention": "frame",
        "ctc_head": "projection", "run_pooling": "first", "blank_handling": "one_per_run", "look_back_over": "kept",
        "audio_embedding": "look_back", "encoder_window": "padded", "alignment_ffn_dim": 8192,
    },
}


class SoundwaveConfig(PreTrainedConfig):
    """Configuration of `SoundwaveForConditionalGeneration`, and of its `SpeechEncoder`.

    The measured effect of each switch is in `docs/switches.md`.

    Args:
        audio_config: a `WhisperConfig` (or its dict); only the encoder is built.
        text_config: the configuration of any causal LM of transformers (or its dict).

    Raises:
        ConfigurationError: a switch has an unknown value, or sizes do not fit.
    """

    model_type = "soundwave"
    sub_configs: ClassVar[dict[str, Any]] = {"audio_config": WhisperConfig, "text_config": AutoConfig}

    audio_config: Any = None
    text_config: Any = None
    audio_token_id: int | None = setting(
        None, least=0, help="Id that marks one audio in input_ids. It may lie outside the LLM's embedding table: audio "
        "embeddings replace it before the LLM runs.",
    )
    frames_per_group: int = setting(
        2, least=1, help="Encoder frames (20 ms each) that are concatenated into one aligned frame."
    )
    alignment_whitening: bool = setting(
        True, help="The encoder's frames are decorrelated and brought to one size in every direction before the "
        "alignment adapter reads them; measured on the training data when stage I begins. False: paper, released.",
    )
    alignment_layers: int = setting(
        1, least=0, most=MOST_LAYERS, help="Transformer layers of the alignment adapter (paper: 1)."
    )
    alignment_heads: int = setting(32, least=1, help="Attention heads of those layers.")
    alignment_ffn_dim: int = setting(8192, least=1, help="Inner width of their feed-forward part.")
    alignment_dropout: float = setting(0.0, least=0, below=1, help="Dropout inside the adapters, in training only.")
    alignment_attention: AlignmentAttention = setting(
        "temporal", choices=get_args(AlignmentAttention),
        help="frame: each frame sees itself only (released); temporal: frames see each other (paper).",
    )
    alignment_convolution: int = setting(
        7, least=0, help="Width, in aligned frames, of a depthwise convolution before the attention of each alignment "
        "layer; 0: none (paper, released).",
    )
    adapter_positions: AdapterPositions = setting(
        "none", choices=get_args(AdapterPositions),
        help="none: the adapters' attention knows of time what the encoder's frames tell (paper, released); rotary: it "
        "turns queries and keys by the frame's place, in alignment and in look-back.",
    )
    ctc_head: CtcHead = setting(
        "embeddings", choices=get_args(CtcHead),
        help="projection: a matrix of its own, started as a copy of the LLM's embeddings (released); embeddings: "
        "cosine to the LLM's own frozen embeddings times a learned scale, plus a learned blank.",
    )
    ctc_vocabulary: list[int] | None = setting(
        None, help="LLM token ids that the CTC may emit, in class order; none: the whole LLM vocabulary."
    )
    ctc_blank_id: int | None = setting(
        None, help="Class of the blank where it is an LLM token (released: the placeholder's id); none: the class "
        "after the last token.",
    )
    ctc_merges: int = setting(
        0, least=0, most=10_000_000, help="How many of the LLM's own BPE merges join neighbouring runs into longer "
        "tokens, so that the LLM reads words as it would spell them; 0: none.",
    )
    run_pooling: RunPooling = setting(
        "mean", choices=get_args(RunPooling),
        help="What stands for a run of equal CTC decisions: its first frame (released), its peak (paper), or the mean.",
    )
    blank_handling: BlankHandling = setting(
        "pool", choices=get_args(BlankHandling),
        help="Runs of blank give one frame each (one_per_run, released), none (drop), or one for the clip (pool).",
    )
    look_back_over: LookBackOver = setting(
        "all_valid", choices=get_args(LookBackOver),
        help="What kept frames attend to: kept frames (released) or all_valid frames (paper).",
    )
    look_back_heads: int = setting(32, least=1, help="Heads of that cross-attention.")
    audio_embedding: AudioEmbedding = setting(
        "posterior", choices=get_args(AudioEmbedding),
        help="What the LLM reads for a kept frame: look_back (paper), or posterior: the CTC posterior's mixture of LLM "
        "embeddings plus the look-back.",
    )
    encoder_window: EncoderWindow = setting(
        "dynamic", choices=get_args(EncoderWindow),
        help="padded: always 30 s (released); dynamic: the audio and window_tail_seconds of silence.",
    )
    window_tail_seconds: float = setting(
        0.5, least=0, most=30, help="Silence that a dynamic window appends, in seconds."
    )
    encoder_upper_layers: int = setting(
        0, least=0, most=MOST_LAYERS, help="How many of the encoder's last layers belong to the model; stored features "
        "are what enters the first of them. 0: the whole encoder is the frozen source's (paper, released)."
    )
    encoder_training: EncoderTraining = setting(
        "none", choices=get_args(EncoderTraining),
        help="What those layers learn where the alignment adapter learns: none (paper, released), lora: a low-rank "
        "change of each matrix, or full: all their weights and the final norm's.",
    )
    encoder_lora_r: int = setting(32, least=1, most=100_000, help="Rank of that change.")
    encoder_lora_alpha: int = setting(32, least=1, help="Its scale: alpha / r.")
    encoder_layer_sum: bool = setting(
        False, help="The adapter reads a learned weighted sum of what enters and leaves those layers, each after the "
        "final norm, that begins as the last alone. False: the last alone (paper, released).",
    )
    audio_tower_source: str | None = setting(
        None, help="A catalog part, folder or hub id that supplies the encoder's weights where the folder has them not."
    )
    language_model_source: str | None = setting(None, help="Likewise for the LLM.")
    lora: bool | None = setting(
        None, help="Whether a LoRA belongs to the model; none: it does where the folder holds one (older folders)."
    )
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.audio_config = _sub_config(self.audio_config, "whisper", "audio_config")
        self.text_config = _sub_config(self.text_config, "llama", "text_config")
        if self.audio_token_id is None:
            self.audio_token_id = self.text_config.vocab_size
        for name in (*MOVED, *DELETED):  # of older versions; `InferenceConfig.read` says so
            kwargs.pop(name, None)
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def preset(cls, name: str, **settings: Any) -> SoundwaveConfig:
        """A configuration with a preset's switches.

        Args:
            name: `released`, the public 9B's.
            settings: what the preset leaves open, such as `audio_config`, or other switches than its own.

        Raises:
            ConfigurationError: an unknown preset, or settings that do not fit.
        """
        refuse_unknown(name, list(PRESETS))
        return cls(**PRESETS[name] | settings)

    def check(self) -> None:
        """Refuses unknown choices and sizes that do not fit, after a change too.

        Raises:
            ConfigurationError: with what is allowed.
        """
        check_settings(self)
        width, positions = _sizes_of(self.text_config, self.audio_config)
        for name in ("alignment_heads", "look_back_heads"):
            if width % getattr(self, name):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)} does not divide the LLM's width {width}; choose a divisor."
                )
        if self.alignment_convolution and self.alignment_convolution % 2 == 0:
            raise ConfigurationError(
                f"alignment_convolution={self.alignment_convolution} has no middle; choose an odd width, or 0 for none."
            )
        if positions % self.frames_per_group:
            raise ConfigurationError(
                f"frames_per_group={self.frames_per_group} does not divide the encoder's {positions} frames; "
                "choose a divisor, such as 2."
            )
        self._check_encoder()
        if self.ctc_vocabulary is not None:
            _check_vocabulary(self.ctc_vocabulary, self.text_config.vocab_size)
        if self.ctc_blank_id is not None:
            self._check_blank(self.ctc_blank_id)
        if self.ctc_merges and not self.joins_runs:
            raise ConfigurationError(
                f"ctc_merges={self.ctc_merges} joins tokens, so it needs blank_handling=drop or pool (is "
                f"{self.blank_handling}) and audio_embedding=posterior (is {self.audio_embedding})."
            )

    def _check_encoder(self) -> None:
        layers = self.audio_config.encoder_layers
        if self.encoder_upper_layers > layers:
            raise ConfigurationError(
                f"encoder_upper_layers={self.encoder_upper_layers}, but the encoder has {layers} layers; choose 0 to "
                f"{layers}."
            )
        for name, off in (("encoder_training", "none"), ("encoder_layer_sum", False)):
            value = getattr(self, name)
            if value != off and not self.encoder_upper_layers:
                raise ConfigurationError(
                    f"{name}={value} is about the encoder's last layers, and encoder_upper_layers=0 says that none "
                    f"belongs to the model; set it to 1 to {layers}, or {name} to {off}."
                )

    @property
    def encoder_depth(self) -> int:
        """How many of the encoder's layers are below those that belong to the model."""
        return self.audio_config.encoder_layers - self.encoder_upper_layers

    @property
    def joins_runs(self) -> bool:
        """Whether neighbouring runs of frames can become one: nothing is kept between them, and tokens are read."""
        return self.blank_handling != "one_per_run" and self.audio_embedding == "posterior"

    def _check_blank(self, blank: int) -> None:
        if not 0 <= blank < self.ctc_tokens:
            raise ConfigurationError(
                f"ctc_blank_id={blank} is none of the {self.ctc_tokens} CTC classes; "
                "leave it out for a blank after them."
            )
        if self.ctc_head != "projection":
            raise ConfigurationError(
                f"ctc_blank_id={blank} makes a token the blank, which only ctc_head=projection can; "
                f"with ctc_head={self.ctc_head} leave it out for a blank of its own."
            )

    @property
    def needs_token_table(self) -> bool:
        """Whether the speech encoder reads the LLM's table of token embeddings."""
        return self.ctc_head == "embeddings" or self.audio_embedding == "posterior"

    @property
    def ctc_tokens(self) -> int:
        """Number of CTC classes that are LLM tokens (a blank with a token's id included)."""
        return len(self.ctc_vocabulary) if self.ctc_vocabulary is not None else self.text_config.vocab_size

    @property
    def blank_class(self) -> int:
        """Class index of the CTC blank."""
        return self.ctc_tokens if self.ctc_blank_id is None else self.ctc_blank_id

    @property
    def ctc_classes(self) -> int:
        """Number of CTC classes, blank included."""
        return self.ctc_tokens + (1 if self.ctc_blank_id is None else 0)

    @property
    def seconds_per_frame(self) -> float:
        """Length of one aligned frame: 0.04 s with two encoder frames of 20 ms."""
        return SECONDS_PER_ENCODER_FRAME * self.frames_per_group


NOT_IN_RECIPES = {"audio_token_id", "audio_tower_source", "language_model_source", "lora"}
SWITCHES = {one.name: one for one in fields(SoundwaveConfig) if "help" in one.metadata}


def split_model_settings(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a model, as recipes state them, to those of `SoundwaveConfig` and those of `InferenceConfig`.

    Those of older versions are read too: what they mean today is among the second.

    Raises:
        ConfigurationError: an unknown name; the nearest known one is told.
    """
    of_config = [name for name in SWITCHES if name not in NOT_IN_RECIPES]
    of_inference = [one.name for one in fields(InferenceConfig)]
    for name in values:
        refuse_unknown(name, [*of_config, *of_inference, *DELETED])
    inference = implied(values) | {name: value for name, value in values.items() if name in of_inference}
    return {name: value for name, value in values.items() if name in of_config}, inference


def _sub_config(value: Any, default_type: str, name: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, Mapping | None):
        raise ConfigurationError(f"{name} is {value!r}; give an object.")
    values = {key: one for key, one in (value or {}).items() if key not in RUNS_CODE}
    kind = values.pop("model_type", default_type)
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as error:  # each model's class checks, or trips over, its own values
        raise ConfigurationError(
            f"{name} is not one that transformers can read, of model_type {kind!r} "
            f"({' '.join(str(error).split())[:200]})."
        ) from error


def _sizes_of(text: Any, audio: Any) -> tuple[int, int]:
    """The LLM's width and the encoder's frames, after a look at what would take for ever to build.

    Raises:
        ConfigurationError: a size that is none.
    """
    counts = {"num_hidden_layers": text, "encoder_layers": audio}
    sizes = {"hidden_size": text, "vocab_size": text, "d_model": audio, "num_mel_bins": audio,
             "max_source_positions": audio}
    for name, config in (counts | sizes).items():
        value, most = getattr(config, name, None), MOST_LAYERS if name in counts else 10_000_000
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise ConfigurationError(f"{config.model_type}'s {name} is {value!r}; give a whole number, 1 to {most}.")
    return text.hidden_size, audio.max_source_positions


def _check_vocabulary(vocabulary: list[int], vocab_size: int) -> None:
    wrong = next((token for token in vocabulary if not isinstance(token, int) or not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise ConfigurationError(
            f"ctc_vocabulary holds the id {wrong}, outside the LLM's vocabulary of {vocab_size} tokens "
            f"(0 to {vocab_size - 1})."
        )
    if len(set(vocabulary)) != len(vocabulary):
        raise ConfigurationError("ctc_vocabulary names a token twice; list each LLM token id once.")


AutoConfig.register(SoundwaveConfig.model_type, SoundwaveConfig)
