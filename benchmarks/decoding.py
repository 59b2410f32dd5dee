"""How fast the torch decoder's loop is beside transformers' `generate`, and its scores beside a padded batch of texts.

Both sides run the same LLM, its LoRA merged, over the same embeddings, and make the same number of tokens.

    python benchmarks/decoding.py --json decoding.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import CLOCKS, interleaved, machine_facts, medians
from torch import Tensor, nn
from transformers import PreTrainedModel

from soundwave.checkpoints.catalog import resolve_model
from soundwave.checkpoints.loading import load_checkpoint
from soundwave.inference.backends.batch import embedded
from soundwave.inference.backends.merged_lora import merged_twin
from soundwave.inference.backends.protocol import Prompt
from soundwave.inference.backends.torch import TorchDecoder
from soundwave.inference.options import GenerationOptions
from soundwave.model.linear import use_onednn

OURS, GENERATE, PADDED = "ours", "generate", "padded batch"
PROMPT_TOKENS = 40  # of the first row, half of them audio; every further row has three more
HYPOTHESIS_TOKENS, HYPOTHESES = 20, 24  # of a transcript of 5 s; of an n best list


def prompt_of(model: PreTrainedModel, tokens: int, seed: int) -> Prompt:
    """Any prompt of so many positions: what stands there takes no time."""
    draw = np.random.default_rng(seed)
    audio = draw.standard_normal((tokens // 2, model.config.hidden_size)).astype(np.float32)
    return Prompt((audio, draw.integers(model.config.vocab_size, size=tokens - tokens // 2).tolist()))


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(R, L, D) embeddings, padded on the left, and their (R, L) mask."""
    mask = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    return pad(list(rows), True, padding_side="left"), pad(mask, True, padding_side="left")


@torch.no_grad()
def compare_answers(
    model: PreTrainedModel, rows: int, temperature: float, tokens: int, repeats: int, clock: str
) -> dict[str, Any]:
    """Answers to so many prompts at once, by both."""
    prompts = [prompt_of(model, PROMPT_TOKENS + 3 * i, i) for i in range(rows)]
    decoder, options = TorchDecoder(model), GenerationOptions(temperature, 0.9, tokens, seed=0)
    choice: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature:
        choice = {"do_sample": True, "temperature": temperature, "top_p": 0.9}

    def generate() -> Tensor:
        inputs, mask = padded([embedded(model, prompt) for prompt in prompts])
        return model.generate(inputs_embeds=inputs, attention_mask=mask, max_new_tokens=tokens, **choice)

    ours = [token.id for token in decoder.generate(prompts[:1], options)]
    same = ours == generate()[0].tolist() if not temperature and rows == 1 else None
    times = interleaved({OURS: lambda: list(decoder.generate(prompts, options)), GENERATE: generate}, repeats, clock)
    return _row(f"{rows} rows, temperature {temperature:g}", GENERATE, times, rows * tokens) | {"same_tokens": same}


@torch.no_grad()
def compare_scores(model: PreTrainedModel, repeats: int, clock: str) -> dict[str, Any]:
    """Log-probabilities of an n best list: as a tree, and each text whole in a padded batch."""
    prompt, draw, vocabulary = prompt_of(model, PROMPT_TOKENS, 0), np.random.default_rng(1), model.config.vocab_size
    best, decoder = draw.integers(vocabulary, size=HYPOTHESIS_TOKENS).tolist(), TorchDecoder(model)
    texts = [list(best) for _ in range(HYPOTHESES)]
    for text in texts[1:]:
        for place in draw.integers(HYPOTHESIS_TOKENS, size=2):  # two words are other ones
            text[place] = int(draw.integers(vocabulary))

    def whole() -> list[float]:
        before, table = embedded(model, prompt), model.get_input_embeddings()
        inputs = torch.stack([torch.cat([before, table(torch.tensor(text, device=before.device))]) for text in texts])
        scores = model(inputs_embeds=inputs, logits_to_keep=HYPOTHESIS_TOKENS + 1).logits[:, :-1].float()
        chosen = scores.log_softmax(-1).gather(-1, torch.tensor(texts, device=before.device)[..., None])
        return chosen.sum((1, 2)).tolist()

    np.testing.assert_allclose(decoder.score(prompt, texts), whole(), rtol=1e-2)
    times = interleaved({OURS: lambda: decoder.score(prompt, texts), PADDED: whole}, repeats, clock)
    return _row(f"score {HYPOTHESES} texts", PADDED, times, HYPOTHESES * HYPOTHESIS_TOKENS)


def _row(what: str, other: str, times: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    middle = medians(times)
    return {
        "what": what, "other": other, "seconds": middle, "all_seconds": times,
        "tokens_per_second": {name: tokens / seconds for name, seconds in middle.items()},
        "ratio": middle[other] / middle[OURS],
    }


def show(result: dict[str, Any]) -> None:
    """A table for people."""
    console, facts = Console(highlight=False), result["machine"]
    console.print(f"{facts['processor']}, {facts['threads']} of {facts['cores']} cores, torch {facts['torch']}")
    table = Table(title=f"tokens a second, medians of {result['repeats']} rounds ({result['clock']} clock)")
    for name in ("what", OURS, "the other way", "tokens/s", "other ÷ ours"):
        table.add_column(name, justify="left" if name in ("what", "the other way") else "right")
    for row in result["measured"]:
        rates = row["tokens_per_second"]
        table.add_row(
            row["what"], f"{rates[OURS]:.1f}", row["other"], f"{rates[row['other']]:.1f}", f"{row['ratio']:.2f}×"
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="mini, a folder or a hub id")
    parser.add_argument("--device", default="cpu", help="%(default)s")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="prompts at once (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds (%(default)s)")
    parser.add_argument("--threads", type=int, help="for PyTorch; default: its own choice")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: for a busy machine, with --threads 1"
    )
    parser.add_argument("--json", type=Path, help="keep everything that was measured here")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    loaded = load_checkpoint(resolve_model(options.model), torch.device(options.device), dtype)[0]
    use_onednn(loaded)
    model = merged_twin(loaded.language_model) or loaded.language_model
    model.generation_config.eos_token_id = None  # every answer has the same length
    measured = [
        compare_answers(model, rows, temperature, options.tokens, options.repeats, options.clock)
        for temperature in (0.0, 0.2) for rows in options.rows
    ]
    measured.append(compare_scores(model, options.repeats, options.clock))
    result = {"machine": machine_facts(), "clock": options.clock, "repeats": options.repeats, "measured": measured}
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
