"""An LLM with its LoRA in its weights, and the same LLM without it, side by side: no request switches anything.

Both share every tensor with the model they are made from, but the matrices that LoRA changes.
"""

from __future__ import annotations

import copy
import threading
from itertools import chain
from typing import Any

from transformers import PreTrainedModel

from soundwave.model.lora import lora_layers, unwrap_lora


def merged_twin(language_model: PreTrainedModel) -> PreTrainedModel | None:
    """A second LLM whose weights hold the LoRA in use, without a LoRA of its own; the first stays as it is.

    It costs the memory of the matrices that LoRA changes (mini: 106 MB in float32; Llama-3.1-8B with q, k, v, o: 2.7 GB
    in bfloat16).

    Returns:
        None where no LoRA is attached, or where its matrices are quantised: merging would round them anew.
    """
    bases: list[Any] = [layer.get_base_layer() for layer in lora_layers(language_model)]
    if not bases or not all(base.weight.is_floating_point() for base in bases):
        return None
    twin = _structure(language_model)
    for layer in lora_layers(twin):
        _own_weight(layer)
        if not (layer.disable_adapters or layer.merged):
            layer.merge()
    unwrap_lora(twin)
    return twin


def plain_twin(language_model: PreTrainedModel) -> PreTrainedModel:
    """A second LLM without any LoRA; it costs no memory, unless one is merged into the first one's weights.

    Returns:
        The model itself where no LoRA is attached.
    """
    if not lora_layers(language_model):
        return language_model
    twin = _structure(language_model)
    for layer in lora_layers(twin):
        if layer.merged:
            _own_weight(layer)
            layer.unmerge()
    unwrap_lora(twin)
    return twin


def lora_state(language_model: PreTrainedModel) -> tuple[object, ...]:
    """What twins depend on: equal states, equal twins.

    Which LoRAs are in use and the version of each tensor; a write through `.data`, which torch does not count, is not
    seen.
    """
    state: list[object] = []
    for layer in lora_layers(language_model):
        state += [tuple(layer.active_adapters), tuple(layer.merged_adapters), layer.disable_adapters]
        state += [(p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in layer.parameters()]
    return tuple(state)


class Twins:
    """The LLM with its present LoRA and without, each made when first asked for, and anew when the LoRA changes.

    Args:
        language_model: stays as it is.
    """

    def __init__(self, language_model: PreTrainedModel):
        self.language_model = language_model
        self._made: dict[bool, PreTrainedModel] = {}
        self._lock = threading.Lock()  # else two threads would each make one
        self._state: tuple[object, ...] = ()

    def get(self, adapted: bool) -> PreTrainedModel:
        """The LLM with its LoRA where `adapted`, else without."""
        state = lora_state(self.language_model)
        with self._lock:
            if state != self._state:
                self._made, self._state = {}, state  # the old ones go before new ones are made
            if adapted not in self._made:
                make = merged_twin if adapted else plain_twin
                self._made[adapted] = make(self.language_model) or self.language_model
            return self._made[adapted]


def _structure(language_model: PreTrainedModel) -> PreTrainedModel:
    """The same modules anew, over the same tensors and configurations."""
    shared = chain(
        language_model.parameters(), language_model.buffers(), (language_model.config, language_model.generation_config)
    )
    return copy.deepcopy(language_model, {id(value): value for value in shared})


def _own_weight(layer: Any) -> None:
    base = layer.get_base_layer()
    base.weight = copy.deepcopy(base.weight).requires_grad_(False)
