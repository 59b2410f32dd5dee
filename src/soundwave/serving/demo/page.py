"""The page: what is where, what it says, and which action each part calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from soundwave.inference.engine import Engine
from soundwave.inference.options import AskOptions
from soundwave.serving.demo.about import facts_table, limits, summary
from soundwave.serving.demo.actions import Actions, View
from soundwave.serving.demo.examples import examples
from soundwave.serving.demo.options import DemoOptions
from soundwave.serving.demo.player import NOTHING_YET, length

HERE = Path(__file__).parent
SYSTEM_FONTS = ["system-ui", "sans-serif"]  # no font is fetched
# One visitor at a time: two at once would only both be slower. The status line says how far it is.
QUEUED: dict[str, Any] = {
    "concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private",
}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# What is announced is replaced again and again; a screen reader hears it if the region itself stays.
LIVE_REGION = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
SUGGESTIONS = ["Summarize this in one sentence.", "What is this about?"]
MOST_NEW_TOKENS = 1024


def theme() -> gr.themes.Base:
    """Colours with a contrast of 4.5 to 1 at least, light and dark, and the fonts that a device has."""
    return gr.themes.Soft(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700", button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="white", body_background_fill="*neutral_100", block_title_text_color="*primary_700",
        block_title_text_color_dark="*primary_100", block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300", body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300", checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_background_fill_selected_dark="*primary_600",
        button_secondary_background_fill_hover_dark="*neutral_500", input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300", link_text_color_dark="*primary_300",
    )


def text_of(name: str) -> str:
    """A file beside this one: style, script or a piece of the page."""
    return (HERE / name).read_text(encoding="utf-8")


def page(engine: Engine, actions: Actions, options: DemoOptions) -> gr.Blocks:
    """The page over an engine; nothing runs before it is launched."""
    with gr.Blocks(title="Soundwave", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        # What every action may change stands here first, and gets its place below.
        status = gr.HTML("", js_on_load=LIVE_REGION, elem_id="sw-status", render=False)
        said = gr.HTML("", js_on_load=LIVE_REGION, elem_id="sw-said", render=False)
        transcript = gr.HTML(NOTHING_YET, js_on_load=text_of("player.js"), elem_id="sw-transcript", render=False)
        chat = gr.Chatbot(
            label="Conversation", show_label=False, height=420, buttons=[], render_markdown=False,
            feedback_options=None, allow_tags=False, placeholder="Give a recording, then ask about it.",
            elem_id="sw-chat", render=False,
        )
        outputs = [status, transcript, chat, said]
        gr.HTML(_header(engine), js_on_load=None, elem_id="sw-header")
        with gr.Row(elem_id="sw-main"):
            with gr.Column(min_width=320, elem_classes="sw-panel"):
                _recording(actions, options, outputs)
                status.render()
                gr.HTML(text_of("captions.html"), js_on_load=None, elem_id="sw-captions")
                gr.HTML('<h2 class="sw-below">Transcript</h2>', js_on_load=None)
                transcript.render()
            with gr.Column(min_width=320, elem_classes="sw-panel"):
                gr.HTML("<h2>Ask about it</h2>", js_on_load=None)
                _conversation(actions, outputs)
        with gr.Accordion("About this model, and what it cannot do", open=False):
            gr.HTML(facts_table(engine, options), js_on_load=None)
            gr.Markdown(limits(engine), elem_id="sw-limits")
        blocks.unload(actions.leave)
    return blocks.queue(max_size=32, api_open=False)


def _header(engine: Engine) -> str:
    told = "<h1>Soundwave</h1><p>Speech in, answer out. It is often wrong: check what it says.</p>"
    return f"{told}<p class='sw-model'>{escape(summary(engine))}</p>"


def _recording(actions: Actions, options: DemoOptions, outputs: list[Any]) -> None:
    """The three ways to give a recording."""
    gr.HTML("<h2>Recording</h2>", js_on_load=None)
    with gr.Row(elem_id="sw-sources"):
        microphone = gr.HTML(
            text_of("microphone.html"), js_on_load=text_of("microphone.js"), elem_id="sw-microphone",
            apply_default_css=False, server_functions=_microphone_calls(actions), min_width=100,
        )
        upload = gr.UploadButton("Upload a file", file_types=["audio", "video"], elem_id="sw-upload", min_width=120)
    told = f"English speech, up to {length(options.max_seconds)} and {options.max_megabytes} MB, any format."
    gr.HTML(f'<p class="sw-hint">{told} Or try one of these:</p>', js_on_load=None)
    with gr.Row(elem_id="sw-examples"):
        for example in examples():
            button = gr.Button(example.label, size="sm", min_width=80)
            button.click(_of_example(actions, example.path), None, outputs, **QUEUED)
    microphone.recorded(actions.recorded, None, outputs, **QUEUED)
    upload.upload(actions.uploaded, upload, outputs, **QUEUED)


def _microphone_calls(actions: Actions) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
    """What the microphone's script calls, as functions: Gradio writes on them, which methods do not allow."""

    def begin(given: dict[str, Any]) -> dict[str, Any]:
        return actions.begin(given)

    def feed(given: dict[str, Any]) -> dict[str, Any]:
        return actions.feed(given)

    def end(given: dict[str, Any]) -> dict[str, Any]:
        return actions.end(given)

    return [begin, feed, end]


def _of_example(actions: Actions, path: Path) -> Callable[[gr.Request], Iterator[View]]:
    def write_down(request: gr.Request) -> Iterator[View]:
        yield from actions.example(path, request)

    return write_down


def _conversation(actions: Actions, outputs: list[Any]) -> None:
    """What is asked, and how it is answered."""
    chat, said = outputs[2:]
    chat.render()
    said.render()
    with gr.Row(elem_id="sw-suggestions"):
        answer = gr.Button("Answer what is said", size="sm", min_width=80)
        suggestions = [gr.Button(text, size="sm", min_width=80) for text in SUGGESTIONS]
    question = gr.Textbox(
        label="Your question", placeholder="Type a question; Enter asks it", lines=1, elem_id="sw-question",
    )
    with gr.Row(elem_id="sw-ask"):
        ask = gr.Button("Ask", variant="primary", min_width=80)
        stop = gr.Button("Stop", min_width=80)
        clear = gr.Button("Clear", min_width=80)
    with gr.Accordion("Settings of the answer", open=False):
        settings = _settings()
    for event in (ask.click, question.submit):
        event(actions.ask, [question, *settings], outputs, **QUEUED)
        event(lambda: "", None, question, **AT_ONCE)
    answer.click(_of_question(actions, ""), settings, outputs, **QUEUED)
    for button, text in zip(suggestions, SUGGESTIONS, strict=True):
        button.click(_of_question(actions, text), settings, outputs, **QUEUED)
    stop.click(actions.stop, None, None, **AT_ONCE)
    for event in (clear.click, chat.clear):  # the second is the conversation's own sign, a bin
        event(actions.clear, None, outputs, **AT_ONCE)


def _of_question(actions: Actions, text: str) -> Callable[..., Iterator[View]]:
    def ask(via: Any, temperature: float, max_new_tokens: float, request: gr.Request) -> Iterator[View]:
        yield from actions.ask(text, via, temperature, max_new_tokens, request)

    return ask


def _settings() -> list[Any]:
    """Inputs for those options of an answer that matter here; their explanations are the options' own."""
    told = {one.name: one.metadata["help"] for one in fields(AskOptions)}
    return [
        gr.Radio(
            [("as the model does best", "auto"), ("the recording itself", "audio"), ("its words", "transcript")],
            value="auto", label="What the language model reads", info=told["via"],
        ),
        gr.Slider(0, 1.5, 0.2, step=0.1, label="Temperature", info=told["temperature"]),
        gr.Slider(16, MOST_NEW_TOKENS, 256, step=16, label="Longest answer", info=told["max_new_tokens"]),
    ]
