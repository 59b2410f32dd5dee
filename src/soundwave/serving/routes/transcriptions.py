"""POST /v1/audio/transcriptions and /v1/audio/translations: what is said in a recording, in the forms of OpenAI."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from soundwave.errors import ConfigurationError, SoundwaveError
from soundwave.inference.engine import Engine
from soundwave.inference.longform import Part, joined, spoken_in
from soundwave.inference.options import TranscribeOptions
from soundwave.inference.results import Transcript
from soundwave.inference.stretches import Listening
from soundwave.inference.subtitles import TranscriptFormat, format_transcript, whisper_json
from soundwave.serving.errors import ApiError, api_error
from soundwave.serving.fields.audio import MOST_TERMS, TranscriptionRequest, TranslationRequest
from soundwave.serving.routes.answers import Transcription, Translation
from soundwave.serving.routes.context_words import expected_in
from soundwave.serving.routes.streams import EventStream
from soundwave.serving.service import Service, note
from soundwave.serving.slots import Slot

TEXTS: dict[str, tuple[TranscriptFormat, str]] = {"srt": ("srt", "application/x-subrip"), "vtt": ("vtt", "text/vtt")}
A_TEXT = {"schema": {"type": "string"}}
FORMS: dict[int | str, dict[str, Any]] = {200: {
    "description": "The transcript in the form that was asked for, or its events.",
    "content": dict.fromkeys(["text/plain", *(kind for _, kind in TEXTS.values()), "text/event-stream"], A_TEXT),
}}
TEXT: dict[int | str, dict[str, Any]] = {200: {"description": "The translation.", "content": {"text/plain": A_TEXT}}}


def router(service: Service) -> APIRouter:
    """The addresses of one recording's words."""
    made = APIRouter(tags=["audio"])

    @made.post("/v1/audio/transcriptions", response_model=Transcription, responses=FORMS)
    async def transcriptions(
        body: Annotated[TranscriptionRequest, Form(media_type="multipart/form-data")], request: Request
    ) -> Response:
        """What is said in a recording of any length; with `stream`, in events while it is found."""
        service.check_model(body.model)
        language = language_of(body, service.engine)
        options = options_of(body)
        check_format(body)
        data = await body.file.read()
        async with AsyncExitStack() as held:
            slot = await held.enter_async_context(service.admit(request))
            clip = await service.recording(request, slot, data, "file")
            words = _Words(service, request, slot, Listening(clip), options)
            if body.stream:
                return EventStream(words.events(), held.pop_all(), done=b"")
            return written(await words.transcript(), body, language)

    @made.post("/v1/audio/translations", response_model=Translation, responses=TEXT)
    async def translations(
        body: Annotated[TranslationRequest, Form(media_type="multipart/form-data")], request: Request
    ) -> Response:
        """What is said in a recording, in English, by a model that was made for it."""
        service.check_model(body.model)
        prompt = service.engine.inference.translate_prompt
        if prompt is None:
            heard = ", ".join(service.engine.inference.languages)
            raise ApiError(
                f"The model {service.name!r} does not translate into English (it hears: {heard}); use "
                "/v1/audio/transcriptions for the words.", code="translation_not_supported",
            )
        data = await body.file.read()
        async with service.admit(request) as slot:
            clip = await service.recording(request, slot, data, "file")
            chunks = slot.iterate(lambda: service.engine.stream(clip, prompt, via="audio", temperature=0))
            async with aclosing(chunks) as made_chunks:
                text = "".join([chunk.text async for chunk in made_chunks])
        return PlainTextResponse(text + "\n") if body.response_format == "text" else JSONResponse({"text": text})

    return made


def language_of(body: TranscriptionRequest, engine: Engine) -> str | None:
    """What is spoken, as far as that is known.

    Raises:
        ApiError: the model hears none of the languages that were named.
    """
    if body.language:
        return spoken_language(engine, [body.language], "language")
    return spoken_language(engine, body.languages, "languages[]")


def spoken_language(engine: Engine, named: Sequence[str], param: str) -> str | None:
    """The code of the language that was named, or of the only one that the model hears; else None.

    Raises:
        ApiError: the model hears none of those that were named.
    """
    heard = engine.inference.languages
    codes = [code_of(name) for name in named if name]
    if codes and not set(codes) & set(heard):
        raise ApiError(
            f"The model hears {', '.join(heard)} only, not {', '.join(map(repr, named))[:200]}; leave the language out "
            "if one of these is spoken.", param=param, code="unsupported_language",
        )
    possible = [code for code in codes if code in heard] or list(heard)
    return possible[0] if len(possible) == 1 else None


def code_of(language: str) -> str:
    """The ISO 639-1 code of a language by its code, its English name, or a tag such as `en-GB`."""
    plain = language.strip().lower()
    return TO_LANGUAGE_CODE.get(plain, plain.replace("_", "-").partition("-")[0])


def options_of(body: TranscriptionRequest) -> TranscribeOptions:
    """How the recording is written down.

    Raises:
        ApiError: too many hot words.
    """
    terms = [*(body.hotwords or "").split(","), *body.keywords, *expected_in(body.prompt or "")]
    hotwords = tuple(dict.fromkeys(" ".join(term.split()) for term in terms if term.strip()))
    if len(hotwords) > MOST_TERMS:
        raise ApiError(f"There are {len(hotwords)} hot words; give at most {MOST_TERMS}.", param="hotwords",
                       code="invalid_value")
    return TranscribeOptions(body.llm, hotwords)


def check_format(body: TranscriptionRequest) -> None:
    """Refuses what one form of answer has and another lacks.

    Raises:
        ApiError: times are asked for where none are given, or a stream of another form than JSON.
    """
    if body.timestamp_granularities and body.response_format != "verbose_json":
        raise ApiError(
            f"timestamp_granularities[] needs response_format='verbose_json', not {body.response_format!r}.",
            param="timestamp_granularities[]", code="invalid_value",
        )
    if body.stream and body.response_format != "json":
        raise ApiError(
            f"A stream is of JSON events; response_format is {body.response_format!r}: leave it out, or stream.",
            param="response_format", code="invalid_value",
        )


def written(transcript: Transcript, body: TranscriptionRequest, language: str | None) -> Response:
    """A transcript in the form that was asked for."""
    form = body.response_format
    if form == "json":
        return JSONResponse({"text": transcript.text, "usage": usage_of(transcript.duration)})
    if form == "text":
        return PlainTextResponse(transcript.text + "\n")
    if form == "verbose_json":
        kept = body.timestamp_granularities or ["segment"]
        return JSONResponse(verbose_json(transcript, language, kept) | {"usage": usage_of(transcript.duration)})
    name, kind = TEXTS[form]
    return Response(format_transcript(transcript, name), media_type=f"{kind}; charset=utf-8")


def verbose_json(transcript: Transcript, language: str | None, kept: Sequence[str]) -> dict[str, Any]:
    """A transcript under Whisper's names; of segments and words those that are kept (`segment`, `word`)."""
    whole = whisper_json(transcript) | {"language": transcript.language or language}
    for segment in whole["segments"]:
        del segment["words"]  # they stand in a list of their own, as in OpenAI's
    unwanted = {name for kind, name in (("segment", "segments"), ("word", "words")) if kind not in kept}
    return {name: value for name, value in whole.items() if name not in unwanted}


def usage_of(seconds: float) -> dict[str, Any]:
    """What a transcript cost, in OpenAI's shape."""
    return {"type": "duration", "seconds": round(seconds, 3)}


class _Words:
    """The words of one recording, whole or in events; found part by part, so that nobody computes for who has gone."""

    def __init__(
        self, service: Service, request: Request, slot: Slot, listening: Listening, options: TranscribeOptions
    ):
        self.service, self.request, self.slot, self.listening, self.options = (
            service, request, slot, listening, options,
        )

    async def transcript(self) -> Transcript:
        """All of them."""
        parts = [part async for part in self._parts()]
        transcript = joined(parts, self.service.engine.source(self.options))
        self._log(transcript.text)
        return transcript

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Text that is final, as it is found; the whole of it at the end."""
        began, said, seconds = time.perf_counter(), "", 0.0
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                seconds = max(seconds, part.seconds)
                for segment in spoken_in(part, self.listening.sound):
                    if not said:
                        self.service.metrics.first_token.observe(time.perf_counter() - began)
                    delta = f" {segment.text}" if said else segment.text
                    said += delta
                    yield {"type": "transcript.text.delta", "delta": delta}
        self._log(said)
        yield {"type": "transcript.text.done", "text": said, "usage": usage_of(seconds)}

    async def _parts(self) -> AsyncGenerator[Part, None]:
        engine = self.service.engine
        try:
            found = self.slot.iterate(lambda: engine.transcribe_parts([self.listening], self.options))
            async with aclosing(found) as parts:
                async for part in parts:
                    if part.error is not None:
                        raise part.error
                    yield part
        except ConfigurationError as error:
            raise api_error(error, "hotwords" if self.options.hotwords else "llm") from error
        except SoundwaveError as error:
            raise api_error(error, "file") from error

    def _log(self, text: str) -> None:
        if self.service.options.log_text:
            note(self.request, transcript=text)
