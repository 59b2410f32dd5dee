"""The engine: recordings and prompts in, typed results out, over one speech encoder and one decoder.

It knows audio, prompts and results. What the encoder computes is in `model`, how tokens are chosen is the decoder's,
how words are found is `transcription`'s.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NoReturn

from soundwave.audio import SAMPLE_RATE, AudioInput
from soundwave.errors import ConfigurationError, SoundwaveError, SoundwaveWarning
from soundwave.inference.answers import answer, reply_of
from soundwave.inference.backends.protocol import Decoder
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.captions import LiveSession
from soundwave.inference.conversation import ConversationReader
from soundwave.inference.longform import LongTranscriber, Part, joined, spoken_in
from soundwave.inference.options import AskOptions, AudioOptions, ChatOptions, ListenOptions, TranscribeOptions, Via
from soundwave.inference.prompts import PromptBuilder
from soundwave.inference.results import Chunk, Reply, Segment, Source, Speech, Transcript
from soundwave.inference.speech import SpeechFrontEnd
from soundwave.inference.stretches import Damage, Listening
from soundwave.inference.transcription import Transcriber
from soundwave.inference.turns import Request, Turn, TurnMaker
from soundwave.inference_config import InferenceConfig
from soundwave.model.soundwave import SoundwaveForConditionalGeneration
from soundwave.model.speech_encoder import SpeechEncoder
from soundwave.processing import SoundwaveProcessor
from soundwave.text.ctc_tokenizer import CtcTokenizer


class Engine:
    """A model that can be asked. One engine may be used from several threads.

    Args:
        encoder: in evaluation mode, on its device.
        decoder: runs the LLM; None: transcripts by CTC alone, and nothing can be asked.
        processor: the model's.
        inference: its prompts, ways and weights.
        name: what the user called it.
        folder: where it was read from; holds the n-gram, where there is one.
    """

    def __init__(
        self, encoder: SpeechEncoder, decoder: Decoder | None, processor: SoundwaveProcessor,
        inference: InferenceConfig, name: str = "model", folder: Path | None = None,
    ):
        self.encoder, self.decoder, self.processor, self.inference = encoder, decoder, processor, inference
        self.name, self.folder = name, folder
        self.ctc = CtcTokenizer(processor.tokenizer, encoder.config.ctc_vocabulary)
        self._front_end = SpeechFrontEnd(encoder, processor)
        self._prompts = PromptBuilder(processor, inference, encoder.config.audio_token_id)
        self._transcriber = Transcriber(encoder.config, inference, folder, self.ctc, self._prompts, decoder)
        self._long = LongTranscriber(self._front_end, self._transcriber)
        self._turn_maker = TurnMaker(
            self._front_end, self._transcriber, self._long, self._prompts, inference.default_prompt
        )
        self._conversations = ConversationReader(self._turn_maker)

    @classmethod
    def of(
        cls, model: SoundwaveForConditionalGeneration, processor: SoundwaveProcessor, name: str = "model",
        folder: Path | None = None,
    ) -> Engine:
        """Over a whole model in torch, in evaluation mode, and its processor."""
        decoder = TorchDecoder(model.language_model)
        return cls(model.speech_encoder, decoder, processor, processor.inference, name, folder)

    @property
    def default_prompt(self) -> str:
        """The prompt for audio that comes without one, where the LLM reads the audio itself."""
        return self.inference.default_prompt

    def ask(
        self, audio: AudioInput | None, prompt: str | None = None, *, via: Via = "auto", temperature: float = 0.2,
        top_p: float = 0.9, max_new_tokens: int = 512, seed: int | None = None,
        on_chunk: Callable[[Chunk], None] | None = None, **sound: Any,
    ) -> Reply:
        """Answers a prompt about a recording.

        Args:
            audio: a path, bytes, a file object, `(samples, sampling_rate)`, or None for a typed question.
            prompt: what to do with it; None: the model's default prompt, or, by way of the transcript, what is said is
                itself the prompt.
            via: what the LLM reads: the `audio` itself, the `transcript` that `transcribe` gives, or what the model
                does best (`auto`; its card says which). `Reply.via` says what it was.
            temperature, top_p, max_new_tokens, seed: see `GenerationOptions`.
            on_chunk: is called with each piece of the answer as it is made, those that `stream` gives.
            sound: start, end, channels, track: see `AudioOptions`.

        Raises:
            AudioTooLongError: the recording, or its words, are more than the LLM can read at once.
            AudioError: the recording cannot be used.
            ConfigurationError: an option is out of range, or the LLM is not loaded.
        """
        options = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
        reply = None
        with closing(self.stream(audio, prompt, via=via, **options, **sound)) as chunks:  # type: ignore[arg-type]
            for chunk in chunks:
                if on_chunk is not None:
                    on_chunk(chunk)
                reply = chunk.reply
        assert reply is not None
        return reply

    def stream(
        self, audio: AudioInput | None, prompt: str | None = None, *, via: Via = "auto", temperature: float = 0.2,
        top_p: float = 0.9, max_new_tokens: int = 512, seed: int | None = None, **sound: Any,
    ) -> Generator[Chunk, None, None]:
        """The answer in typed chunks as it is made; arguments and errors as for `ask`. Closing it stops the work."""
        options = AskOptions(temperature, top_p, max_new_tokens, seed, via)
        started = time.perf_counter()
        (turn,) = self._turns([Request(audio, prompt)], options, AudioOptions.of(**sound))
        if isinstance(turn, SoundwaveError):
            raise turn
        yield from answer(turn, self._llm, options, self._text, started)

    def ask_batch(
        self, requests: Sequence[Request | tuple[AudioInput | None, str | None]], *, via: Via = "auto",
        temperature: float = 0.2, top_p: float = 0.9, max_new_tokens: int = 512, seed: int | None = None,
        return_errors: bool = False, **sound: Any,
    ) -> list[Any]:
        """Answers several requests at once, each as `ask` does alone.

        Args:
            requests: audios and prompts.
            via, temperature, top_p, max_new_tokens, seed, sound: as for `ask`, the same for all.
            return_errors: put the error of a request that cannot be answered in its place, as `SoundwaveError`, and
                answer the others. Otherwise it is raised, with the request's number.

        Returns:
            list[Reply], or list[Reply | SoundwaveError] with `return_errors`.
        """
        options = AskOptions(temperature, top_p, max_new_tokens, seed, via)
        started = time.perf_counter()
        many = [request if isinstance(request, Request) else Request(*request) for request in requests]
        turns = self._turns(many, options, AudioOptions.of(**sound))
        _raise_first(turns, return_errors, "request")
        asked = [i for i, turn in enumerate(turns) if isinstance(turn, Turn) and turn.prompt is not None]
        prompts = [turn.prompt for turn in turns if isinstance(turn, Turn) and turn.prompt is not None]
        drafts = [turn.draft for turn in turns if isinstance(turn, Turn) and turn.prompt is not None]
        ids: dict[int, list[int]] = {i: [] for i in range(len(turns))}
        first = dict.fromkeys(ids, 0.0)
        for token in self._llm.generate(prompts, options, drafts) if prompts else ():
            row = asked[token.row]
            first[row] = first[row] or time.perf_counter() - started
            ids[row].append(token.id)
        total = time.perf_counter() - started
        return [
            turn if isinstance(turn, SoundwaveError)
            else reply_of(turn, ids[i], self._text(ids[i]), self._llm.info, first[i] or total, total)
            for i, turn in enumerate(turns)
        ]

    def chat(
        self, messages: Sequence[dict[str, Any]], *, via: Via = "auto", temperature: float = 0.2, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> Reply:
        """The assistant's next turn in a conversation of texts and recordings.

        What one recording and one text get is what `ask` answers to them.

        Args:
            messages: each with a role (`system`, `user`, `assistant`) and its content: a text, or a list of parts
                `{"type": "text", "text": …}` and, of users, `{"type": "audio", "audio": …}`, a recording as for `ask`.
            via: as for `ask`, for every recording.
            temperature, top_p, max_new_tokens, seed, stop: see `ChatOptions`.

        Raises:
            AudioTooLongError: the recordings, or their words, are more than the LLM can read at once.
            AudioError: a recording cannot be used.
            ConfigurationError: a message or an option is not allowed, or the LLM is not loaded.

        Example:
            messages = [{"role": "user", "content": [{"type": "audio", "audio": "question.wav"}]}]
            print(engine.chat(messages).text)
        """
        options = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
        *_, last = self.chat_stream(messages, via=via, **options, stop=stop)  # type: ignore[arg-type]
        assert last.reply is not None
        return last.reply

    def chat_stream(
        self, messages: Sequence[dict[str, Any]], *, via: Via = "auto", temperature: float = 0.2, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> Generator[Chunk, None, None]:
        """The same turn in typed chunks as it is made; arguments and errors as for `chat`. Closing it stops all."""
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        options, started = ChatOptions(temperature, top_p, max_new_tokens, seed, via, stops), time.perf_counter()
        turn = self._conversations.turn(messages, self._way(options), options, self._llm)
        yield from answer(turn, self._llm, options, self._text, started, stops)

    def transcribe(
        self, audio: AudioInput, *, llm: bool | None = None, hotwords: Sequence[str] = (), damage: Damage = "refuse",
        **sound: Any,
    ) -> Transcript:
        """Writes down what a person says in a recording of any length; empty where nobody speaks.

        Args:
            audio: as for `ask`.
            llm, hotwords: see `TranscribeOptions`.
            damage: what cannot be decoded is refused, or is silence, and a warning says where (`skip`).
            sound: start, end, channels, track: see `AudioOptions`. With channels="each" the channels are written down
                one by one, and each segment says its speaker.

        Raises:
            AudioError: the recording cannot be used.
            ConfigurationError: an option that this model cannot keep.
        """
        (result,) = self.transcribe_batch([audio], llm=llm, hotwords=hotwords, damage=damage, **sound)
        return result

    def transcribe_batch(
        self, audios: Sequence[AudioInput], *, llm: bool | None = None, hotwords: Sequence[str] = (),
        return_errors: bool = False, damage: Damage = "refuse", **sound: Any,
    ) -> list[Any]:
        """Transcripts of several recordings, each as `transcribe` gives it alone.

        Args:
            audios: the recordings.
            llm, hotwords, damage, sound: as for `transcribe`.
            return_errors: put the error of a recording that cannot be used in its place, as `SoundwaveError`.
                Otherwise it is raised, with the recording's number.

        Returns:
            list[Transcript], or list[Transcript | SoundwaveError] with `return_errors`.
        """
        options, which = TranscribeOptions(llm, tuple(hotwords)), AudioOptions.of(**sound)
        parts: list[list[Part]] = [[] for _ in audios]
        results: list[Any] = [None] * len(audios)
        with closing(self.transcribe_parts([Listening(one, which, damage) for one in audios], options)) as found:
            for part in found:
                _warn_of(part)
                parts[part.recording].append(part)
                if part.error is not None:
                    results[part.recording] = part.error
                    _raise_first(results, return_errors, "recording")
        source = self.source(options)
        return [joined(some, source) if result is None else result for some, result in zip(parts, results, strict=True)]

    def transcribe_stream(
        self, audio: AudioInput, *, llm: bool | None = None, hotwords: Sequence[str] = (), damage: Damage = "refuse",
        **sound: Any,
    ) -> Generator[Segment, None, None]:
        """The segments of a transcript as they are found, final; arguments and errors as for `transcribe`.

        Closing it stops the work. The segments of all channels come in the order in which they end.
        """
        options, which = TranscribeOptions(llm, tuple(hotwords)), AudioOptions.of(**sound)
        with closing(self.transcribe_parts([Listening(audio, which, damage)], options)) as parts:
            for part in parts:
                _warn_of(part)
                if part.error is not None:
                    raise part.error
                yield from spoken_in(part, which)

    def transcribe_parts(
        self, recordings: Sequence[Listening], options: TranscribeOptions
    ) -> Generator[Part, None, None]:
        """The transcripts of several recordings, part by part, with marks from which another run may go on.

        Warnings about a recording are parts too, and are given as `SoundwaveWarning` by all other ways.
        """
        return self._long.parts(recordings, options)

    def source(self, options: TranscribeOptions) -> Source:
        """Where the words of transcripts come from."""
        return self._transcriber.source(options)

    def listen(self, options: ListenOptions | None = None, *, sampling_rate: int = SAMPLE_RATE) -> LiveSession:
        """Live captions: a session that is fed with sound as it comes, and gives what is said as typed events.

        Args:
            options: as for `transcribe`, and how often words are looked for.
            sampling_rate: of what will be fed, in Hz.

        Raises:
            AudioError: a sampling rate that no speech has.
            ConfigurationError: an option that this model cannot keep.

        Example:
            with engine.listen() as session:
                for samples in microphone:
                    for event in session.feed(samples):
                        print(event)
                print(session.finish())
        """
        return LiveSession(self._front_end, self._transcriber, options or ListenOptions(), sampling_rate)

    def encode(self, audio: AudioInput) -> Speech:
        """What the speech encoder makes of a recording: embeddings, CTC log-probabilities, tokens and their times."""
        (encoded,) = self._front_end.encode([audio], keep_logprobs=True)
        if isinstance(encoded, SoundwaveError):
            raise encoded
        assert encoded.speech is not None
        return encoded.speech

    def describe(self) -> dict[str, Any]:
        """The model's name, place and size."""
        decoder = None if self.decoder is None else self.decoder.info
        sizes = {
            name: sum(p.numel() for p in getattr(self.encoder, name).parameters())
            for name in ("audio_tower", "alignment", "shrinking")
        }
        sizes["language_model"] = 0 if decoder is None else decoder.parameters
        return {
            "model": self.name, "folder": None if self.folder is None else str(self.folder),
            "device": str(self.encoder.device), "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "audio_tower_dtype": str(next(self.encoder.audio_tower.parameters()).dtype).removeprefix("torch."),
            "backend": "none" if decoder is None else decoder.name, "via": self.inference.via,
            "parameters": sizes | {"total": sum(sizes.values())},
        }

    def close(self) -> None:
        """Frees the LLM; the engine cannot be asked afterwards."""
        if self.decoder is not None:
            self.decoder.close()

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            f"An engine cannot be pickled or sent to another process; call soundwave.load({self.name!r}) there."
        )

    @property
    def _llm(self) -> Decoder:
        if self.decoder is None:
            raise ConfigurationError("No LLM is loaded (backend='none'), so nothing can be asked; use backend='torch'.")
        return self.decoder

    def _turns(
        self, requests: Sequence[Request], options: AskOptions, sound: AudioOptions
    ) -> list[Turn | SoundwaveError]:
        """What the LLM is to read for each request; the error of one that cannot be used stands in its place."""
        llm = self._llm  # fails before any work
        return self._turn_maker.turns(requests, self._way(options), options, sound, llm)

    def _way(self, options: AskOptions) -> Literal["audio", "transcript"]:
        """What the LLM reads for recordings."""
        return self.inference.via if options.via == "auto" else options.via

    def _text(self, ids: list[int]) -> str:
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True)


def _warn_of(part: Part) -> None:
    if part.warning:
        warnings.warn(part.warning, SoundwaveWarning, stacklevel=3)


def _raise_first(results: Sequence[Any], return_errors: bool, what: str) -> None:
    """Raises the first error among results, with its number where there are several."""
    for i, result in enumerate(results):
        if isinstance(result, SoundwaveError) and not return_errors:
            if len(results) > 1:
                result.args = (f"{what} {i}: {result}",)
            raise result
