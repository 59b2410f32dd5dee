"""The shape of a Soundwave model, and every switch of its design, as one Hugging Face configuration.

Each switch names the released 9B model's choice and the paper's, because they differ (paper section 3; released code).
This module knows names and numbers only: no tensors, no files.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, Literal, get_args

from transformers import AutoConfig, PreTrainedConfig, WhisperConfig

from soundwave.errors import ConfigurationError

AlignmentAttention = Literal["frame", "temporal"]
LookBackOver = Literal["kept", "all_valid"]
RunPooling = Literal["first", "peak", "mean"]
BlankHandling = Literal["one_per_run", "drop", "pool"]
EncoderWindow = Literal["padded", "dynamic"]
CtcHead = Literal["projection", "embeddings"]
AudioEmbedding = Literal["look_back", "posterior"]
PromptFormat = Literal["released", "chat_template"]
TextOnly = Literal["adapted", "plain"]
AdapterPositions = Literal["none", "rotary"]

WORD_LISTS = ("english",)  # the package's
NO_WORDS = "none"

SWITCHES: dict[str, Any] = {
    "alignment_attention": AlignmentAttention,
    "look_back_over": LookBackOver,
    "run_pooling": RunPooling,
    "blank_handling": BlankHandling,
    "encoder_window": EncoderWindow,
    "ctc_head": CtcHead,
    "audio_embedding": AudioEmbedding,
    "prompt_format": PromptFormat,
    "text_only": TextOnly,
    "adapter_positions": AdapterPositions,
}

AUDIO_TOKEN = "<|audio|>"  # the placeholder in prompts of newly trained models
LEAST = {  # of sizes
    "alignment_layers": 0, "alignment_heads": 1, "alignment_ffn_dim": 1, "alignment_convolution": 0,
    "look_back_heads": 1, "ctc_merges": 0,
}



class SoundwaveConfig(PreTrainedConfig):
    r"""Configuration of `SoundwaveForConditionalGeneration`.

    The measured effect of each switch is in `docs/switches.md`.

    Args:
        audio_config: a `WhisperConfig` (or its dict); only the encoder is built.
        text_config: the configuration of any causal LM of transformers (or its dict).
        audio_token_id: id that marks one audio in `input_ids`. It may lie outside the LLM's embedding table, because
            the audio embeddings replace it before the LLM runs.
        frames_per_group: encoder frames (20 ms each) that are concatenated into one aligned frame.
        alignment_whitening: the encoder's frames are decorrelated and brought to one size in every direction before
            the alignment adapter reads them; measured on the training data when stage I begins. False: as they are
            (paper, released).
        alignment_layers: Transformer layers of the alignment adapter (paper: 1).
        alignment_heads: attention heads of those layers.
        alignment_ffn_dim: inner width of their feed-forward part.
        alignment_dropout: dropout inside the adapters, in training only.
        alignment_attention: `frame`: each frame sees itself only (the released weights depend on it);
            `temporal`: frames see each other (paper).
        alignment_convolution: width, in aligned frames, of a depthwise convolution before the attention of each
            alignment layer; 0: none (paper, released).
        adapter_positions: `none`: the adapters' attention knows of time only what the encoder's frames tell (paper,
            released); `rotary`: it turns queries and keys by the frame's place, in alignment and in look-back.
        ctc_head: `projection`: a matrix of its own, started as a copy of the LLM's embeddings (released);
            `embeddings`: cosine to the LLM's own frozen embeddings times a learned scale, plus a learned blank.
        ctc_vocabulary: LLM token ids that the CTC may emit, in class order; None: the whole LLM vocabulary.
        ctc_blank_id: class of the blank where it is an LLM token (released: the placeholder's id); None: the class
            after the last token.
        run_pooling: what stands for a run of equal CTC decisions: its `first` frame (released), its `peak` (paper), or
            the `mean`.
        blank_handling: runs of blank give one frame each (`one_per_run`, released), none (`drop`), or one frame for
            the whole clip (`pool`).
        ctc_merges: how many of the LLM's own BPE merges join neighbouring runs into longer tokens, so that the LLM
            reads words as it would spell them; 0: none. Needs a restricted vocabulary, `posterior` and no blanks
            between.
        look_back_over: what kept frames attend to: `kept` frames (the released weights depend on it) or `all_valid`
            frames (paper).
        look_back_heads: heads of that cross-attention.
        audio_embedding: what the LLM reads for a kept frame: `look_back` (paper) or `posterior`: the CTC
            posterior's mixture of LLM embeddings plus the look-back.
        encoder_window: `padded`: always 30 s (released); `dynamic`: the audio and `window_tail_seconds` of silence.
        window_tail_seconds: silence that a dynamic window appends, in seconds.
        prompt_format: `released`: piecewise, a BOS before every piece; `chat_template`: the tokenizer's own template.
        text_only: how a conversation without audio is answered where LoRA is attached: `plain`: by the untouched LLM;
            `adapted`: with LoRA.
        audio_system_prompt: the system turn of a conversation with audio that brings none; None: what the chat
            template puts there by itself. A short one makes training and answering cheaper.
        transcribe_prompt: the prompt that makes this model transcribe.
        answer_prompt: the prompt to which the words of a recording are found first, as for a transcript, and answered
            by the LLM as if they had been typed: so it knows what it knows without speech. Needs `joint_ctc_weight`.
            None: it answers the audio itself (paper).
        default_prompt: the prompt for audio that comes without one.
        transcript_prefixes: what the model was trained to say before a transcript, removed from it.
        joint_ctc_weight: of CTC's log-probability beside the LLM's where `transcribe` searches (`inference/joint.py`);
            0: the LLM alone, greedily. For models whose CTC text is words; 0 for the released weights.
        word_list: `english`, the package's list of words, which take the place of what `transcribe` would spell by ear;
            None: the whole words of the LLM's vocabulary; `none`: spellings stay, for languages of other words.
        rescoring_weight: of the log-probability that the plain LLM gives to a text as a typed turn, where `transcribe`
            chooses among what the search found; 0: the search's own order.
        rewording_weight: the same beside CTC's log-probability, where other words of the list are then tried in that
            text (`inference/rewording.py`); 0: none are.
        audio_tower_source: a catalog part that supplies the encoder's weights where the folder does not hold them.
        language_model_source: likewise for the LLM.

    Raises:
        ConfigurationError: a switch has an unknown value, or sizes do not fit.
    """

    model_type = "soundwave"
    sub_configs: ClassVar[dict[str, Any]] = {"audio_config": WhisperConfig, "text_config": AutoConfig}

    audio_config: Any = None
    text_config: Any = None
    audio_token_id: int | None = None
    frames_per_group: int = 2
    alignment_whitening: bool = True
    alignment_layers: int = 1
    alignment_heads: int = 32
    alignment_ffn_dim: int = 8192
    alignment_dropout: float = 0.0
    alignment_attention: AlignmentAttention = "temporal"
    alignment_convolution: int = 7
    adapter_positions: AdapterPositions = "none"
    ctc_head: CtcHead = "embeddings"
    ctc_vocabulary: list[int] | None = None
    ctc_blank_id: int | None = None
    ctc_merges: int = 0
    run_pooling: RunPooling = "mean"
    blank_handling: BlankHandling = "pool"
    look_back_over: LookBackOver = "all_valid"
    look_back_heads: int = 32
    audio_embedding: AudioEmbedding = "posterior"
    encoder_window: EncoderWindow = "dynamic"
    window_tail_seconds: float = 0.5
    prompt_format: PromptFormat = "chat_template"
    text_only: TextOnly = "plain"
    audio_system_prompt: str | None = None
    transcribe_prompt: str = "What does the person say?"
    answer_prompt: str | None = None
    default_prompt: str = (
        "Please transcribe the following audio and then answer based on the audio's transcription."
    )
    transcript_prefixes: list[str] = field(default_factory=list)
    joint_ctc_weight: float = 0.0
    word_list: str | None = None
    rescoring_weight: float = 0.0
    rewording_weight: float = 0.0
    audio_tower_source: str | None = None
    language_model_source: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.audio_config = _sub_config(self.audio_config, "whisper")
        self.text_config = _sub_config(self.text_config, "llama")
        if self.audio_token_id is None:
            self.audio_token_id = self.text_config.vocab_size
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Refuses unknown choices and sizes that do not fit, after a change too.

        Raises:
            ConfigurationError: with what is allowed.
        """
        for name, allowed in SWITCHES.items():
            if getattr(self, name) not in get_args(allowed):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} is not known; choose one of {', '.join(get_args(allowed))}."
                )
        self._check_numbers()
        width = self.text_config.hidden_size
        for name in ("alignment_heads", "look_back_heads"):
            if width % getattr(self, name):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)} does not divide the LLM's width {width}; choose a divisor."
                )
        if self.alignment_convolution and self.alignment_convolution % 2 == 0:
            raise ConfigurationError(
                f"alignment_convolution={self.alignment_convolution} has no middle; choose an odd width, or 0 for none."
            )
        if self.joint_ctc_weight < 0:
            raise ConfigurationError(
                f"joint_ctc_weight={self.joint_ctc_weight} is below 0; give 0 for the LLM alone, or one such as 0.4."
            )
        if self.word_list not in (None, NO_WORDS, *WORD_LISTS):
            raise ConfigurationError(
                f"word_list={self.word_list!r} is not known; choose {', '.join(WORD_LISTS)}, {NO_WORDS}, or null for "
                "the words of the LLM's vocabulary."
            )
        if self.rescoring_weight < 0:
            raise ConfigurationError(
                f"rescoring_weight={self.rescoring_weight} is below 0; give 0 for none, or one such as 0.5."
            )
        if self.rewording_weight < 0:
            raise ConfigurationError(
                f"rewording_weight={self.rewording_weight} is below 0; give 0 for none, or one such as 0.6."
            )
        if self.answer_prompt is not None and not self.joint_ctc_weight:
            raise ConfigurationError(
                f"answer_prompt={self.answer_prompt!r} needs the search for words; set joint_ctc_weight, to 0.4 for "
                "instance, or answer_prompt=null."
            )
        positions = self.audio_config.max_source_positions
        if self.frames_per_group < 1 or positions % self.frames_per_group:
            raise ConfigurationError(
                f"frames_per_group={self.frames_per_group} does not divide the encoder's {positions} frames; "
                "choose a divisor, such as 2."
            )
        if self.ctc_vocabulary is not None:
            _check_vocabulary(self.ctc_vocabulary, self.text_config.vocab_size)
        if self.ctc_blank_id is not None:
            self._check_blank(self.ctc_blank_id)
        if self.ctc_merges and not self.joins_runs:
            raise ConfigurationError(
                f"ctc_merges={self.ctc_merges} joins tokens, so it needs blank_handling=drop or pool (is "
                f"{self.blank_handling}) and audio_embedding=posterior (is {self.audio_embedding})."
            )

    def _check_numbers(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(f"{name}={value!r}; give a whole number, {least} or more.")
        if not 0 <= self.alignment_dropout < 1:
            raise ConfigurationError(f"alignment_dropout={self.alignment_dropout}; give 0 or more, below 1.")

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
        return 0.02 * self.frames_per_group


def _sub_config(value: Any, default_type: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    values = dict(value or {})
    return AutoConfig.for_model(values.pop("model_type", default_type), **values)


def _check_vocabulary(vocabulary: list[int], vocab_size: int) -> None:
    if len(set(vocabulary)) != len(vocabulary):
        raise ConfigurationError("ctc_vocabulary names a token twice; list each LLM token id once.")
    wrong = next((token for token in vocabulary if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise ConfigurationError(
            f"ctc_vocabulary holds the id {wrong}, outside the LLM's vocabulary of {vocab_size} tokens "
            f"(0 to {vocab_size - 1})."
        )


AutoConfig.register(SoundwaveConfig.model_type, SoundwaveConfig)
