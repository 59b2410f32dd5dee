"""Linear layers through oneDNN give what PyTorch's own give, keep their weights, and learn as before."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

import soundwave
from soundwave.inference import loading
from soundwave.model.linear import AVAILABLE, OneDnnLinear, use_onednn

needs_onednn = pytest.mark.skipif(not AVAILABLE, reason="this PyTorch has no oneDNN for linear layers")


def twin_of(layer: nn.Linear) -> nn.Module:
    twin = nn.Sequential(copy.deepcopy(layer))
    use_onednn(twin)
    return twin[0]


@needs_onednn
@pytest.mark.parametrize("shape", [(1,), (1, 1), (3, 7), (2, 50, 1), (1, 0), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_it_is_the_plain_layer_up_to_rounding(shape: tuple[int, ...], bias: bool) -> None:
    layer = nn.Linear(48, 80, bias=bias)
    twin = twin_of(layer)
    assert type(twin) is OneDnnLinear
    x = torch.randn(*shape, 48)
    assert twin(x).shape == layer(x).shape
    torch.testing.assert_close(twin(x), layer(x), rtol=1e-5, atol=1e-5)
    strange = torch.randn(48, *shape).movedim(0, -1)  # not contiguous
    torch.testing.assert_close(twin(strange), layer(strange), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_it_really_goes_through_onednn() -> None:
    twin, x = twin_of(nn.Linear(48, 80)), torch.randn(4, 48)
    with torch.no_grad(), torch.profiler.profile() as seen:
        twin(x)
    assert any("mkldnn" in event.key for event in seen.key_averages())


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes_stay_with_pytorch(dtype: torch.dtype) -> None:
    layer = nn.Linear(16, 8, dtype=dtype)
    x = torch.randn(5, 16, dtype=dtype)
    assert torch.equal(twin_of(layer)(x), layer(x))


@needs_onednn
def test_gradients_and_autocast_stay_with_pytorch() -> None:
    layer = nn.Linear(16, 8)
    twin, x = twin_of(layer), torch.randn(5, 16)
    for one in (layer, twin):
        one(x).square().sum().backward()
    assert torch.equal(twin.weight.grad, layer.weight.grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(twin(x), layer(x))


def test_names_and_weights_stay_and_layers_of_other_kinds_too() -> None:
    class Own(nn.Linear):
        pass

    module = nn.ModuleDict({"a": nn.Linear(4, 4), "b": Own(4, 4), "c": nn.LayerNorm(4)})
    before = copy.deepcopy(module.state_dict())
    use_onednn(module)
    assert [type(one) for one in module.values()] == [OneDnnLinear if AVAILABLE else nn.Linear, Own, nn.LayerNorm]
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@needs_onednn
@pytest.mark.parametrize("backend", ["torch", "none"])
def test_a_loaded_model_uses_it_everywhere(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[nn.Module] = []
    monkeypatch.setattr(loading, "use_onednn", lambda module: (changed.append(module), use_onednn(module)))
    folder = tiny.released_folder(tmp_path / "model")
    used = list(soundwave.load(folder, device="cpu", dtype="float32", backend=backend).encoder.modules())
    kinds = {type(module) for module in [*changed[0].modules(), *used] if isinstance(module, nn.Linear)}
    assert kinds == {OneDnnLinear}


@needs_onednn
def test_the_benchmark_prints_a_ratio_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import linear

    linear.main(["--rows", "1", "3", "--repeats", "1"])
    assert capsys.readouterr().out.count("×") == 2
