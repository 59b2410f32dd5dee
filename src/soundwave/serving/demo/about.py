"""What a visitor should know of the model: what it is, where it runs, how much it reads, what it cannot do."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from soundwave.inference.engine import Engine
from soundwave.serving.demo.options import DemoOptions
from soundwave.serving.demo.player import length

KEPT_BESIDE = 640  # positions for a question and its answer, beside a recording
LIMITS = re.compile(r"^## What it cannot do\s*\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
PLACES = {"cpu": "the processor", "cuda": "the graphics processor", "mps": "Apple's graphics processor"}


def summary(engine: Engine) -> str:
    """The model, its size and where it runs, on a line."""
    facts = engine.describe()
    place = PLACES.get(str(facts["device"]).split(":")[0], facts["device"])
    size = facts["parameters"]["total"]
    parameters = f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.0f} million"
    return f"{name_of(engine)} · {parameters} parameters · runs on {place} of the machine that serves this page"


def name_of(engine: Engine) -> str:
    """What to call the model: not where it lies on somebody's disk."""
    return f"soundwave-{engine.name}" if engine.name == "mini" else Path(engine.name).name


def facts_table(engine: Engine, options: DemoOptions) -> str:
    """What the engine says of itself, and the bounds of the page, as an HTML table."""
    facts, sizes = engine.describe(), engine.describe()["parameters"]
    rows = {
        "Model": name_of(engine),
        "Where it runs": f"{facts['device']}, {facts['dtype']}, language model by {facts['backend']}",
        "Parameters": ", ".join(f"{name.replace('_', ' ')} {size / 1e6:.1f} M" for name, size in sizes.items()),
        "How it answers": {
            "audio": "the language model reads the recording itself",
            "transcript": "the language model reads the words that were found in the recording",
        }[facts["via"]],
        "Longest recording here": f"{length(options.max_seconds)}, {options.max_megabytes} MB",
        "Context": context_of(engine),
        "What you give": "stays on the machine that serves this page, is shown to nobody else, and is deleted when you "
        f"close the page or do nothing for {options.keep_minutes:g} minutes",
    }
    cells = (f"<tr><th scope='row'>{escape(name)}</th><td>{escape(told)}</td></tr>" for name, told in rows.items())
    return f"<table class='sw-facts'>{''.join(cells)}</table>"


def context_of(engine: Engine) -> str:
    """How much the language model reads at once, in positions and in minutes of speech that surely fit."""
    context = None if engine.decoder is None else engine.decoder.info.context_length
    if context is None:
        return "not limited"
    minutes = max(0, context - KEPT_BESIDE) * engine.encoder.config.seconds_per_frame / 60
    return f"{context:,} positions: at least {minutes:.1f} minutes of speech, or about {context // 2:,} words"


def limits(engine: Engine) -> str:
    """What the model's card says that it cannot do, as Markdown; links, which lead nowhere here, are plain text."""
    card = None if engine.folder is None else engine.folder / "README.md"
    if card is not None and card.is_file():
        found = LIMITS.search(card.read_text(encoding="utf-8"))
        if found:
            return re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", found[1].strip())
    return "No card beside this model's weights says what it cannot do. Check what it says."
