"""A trained folder to the folder that is shipped: float16, and checked against the size limit.

    python recipes/mini/ship.py runs/stage3/final --out models/soundwave-mini
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

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
    """Writes a trained folder anew in float16, with mini's prompts; returns the bytes of its weights."""
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
            save_file(halved(file), target, metadata={"format": "pt"})
            target.chmod(0o644)  # safetensors makes files that only their owner can read
            size += target.stat().st_size
        elif file.name == "adapter_config.json":
            lora = json.loads(file.read_text()) | {"base_model_name_or_path": config["language_model_source"]}
            target.write_text(json.dumps(lora, indent=2) + "\n")
    return size


def halved(file: Path) -> dict[str, torch.Tensor]:
    """The file's tensors in float16.

    Raises:
        SystemExit: a value does not fit float16.
    """
    tensors = {}
    with safe_open(file, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - safe_open has no iterator
            value = stored.get_tensor(name)
            tensors[name] = value.half() if value.is_floating_point() else value
            if not torch.isfinite(tensors[name]).all():
                raise SystemExit(f"{file}: {name} does not fit float16.")
    return tensors


if __name__ == "__main__":
    main()
