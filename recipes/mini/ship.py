"""A trained folder to the folder that is shipped: matrices in 8 bits, the rest in float16; not above the size limit.

    python recipes/mini/ship.py runs/stage3/final --out models/soundwave-mini
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from soundwave.checkpoints.eight_bit import pack
from soundwave.checkpoints.native import TRAINED_FILE
from soundwave.checkpoints.weights import read_tensors
from soundwave.inference_config import InferenceConfig

LIMIT_BYTES = 25_000_000  # the repository keeps every version of the weights
MINI = Path(__file__).resolve().parents[2] / "models" / "soundwave-mini"  # its prompts, and weights of the search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="the `final` folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its README.md stays")
    arguments = parser.parse_args()
    size = ship(arguments.trained, arguments.out)
    if size > LIMIT_BYTES:
        limit = LIMIT_BYTES / 1e6
        raise SystemExit(f"{arguments.out}: {size / 1e6:.1f} MB of weights; at most {limit:.0f} MB are shipped.")
    print(f"{arguments.out}: {size / 1e6:.1f} MB of weights")


def ship(trained: Path, out: Path) -> int:
    """Writes a trained folder anew, smaller and with mini's prompts; returns the bytes of its weights."""
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((trained / "config.json").read_text())
    config["text_config"].pop("_name_or_path", None)  # where the part lay on the machine that trained it
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    InferenceConfig.read(MINI).write(out)
    size = 0
    for file in sorted(trained.rglob("*")):
        target = out / file.relative_to(trained)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            save_file(packed(file), target, metadata={"format": "pt"})
            target.chmod(0o644)  # safetensors makes files that only their owner can read
            size += target.stat().st_size
        elif file.name == "adapter_config.json":
            lora = json.loads(file.read_text()) | {"base_model_name_or_path": config["language_model_source"]}
            target.write_text(json.dumps(lora, indent=2) + "\n")
    return size


def packed(file: Path) -> dict[str, torch.Tensor]:
    """The file's tensors: matrices of what is not LoRA, which PEFT reads, in 8 bits; the rest in float16.

    Raises:
        SystemExit: a value does not fit float16.
    """
    tensors = {}
    for name, value in read_tensors([file]):
        half = value.half() if value.is_floating_point() else value
        if not torch.isfinite(half).all():
            raise SystemExit(f"{file}: {name} does not fit float16.")
        is_matrix = file.name == TRAINED_FILE and name.endswith(".weight") and half.dim() == 2
        tensors |= pack(name, value) if is_matrix else {name: half}
    return tensors


if __name__ == "__main__":
    main()
