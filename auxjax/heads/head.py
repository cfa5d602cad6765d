"""The record of a head: where it reads, its module, loss, target, mask and weight; and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.core import freeze

from auxjax.errors import AuxjaxError


@dataclasses.dataclass(frozen=True)
class Head:
    """An auxiliary head: where it reads, its module, and its own loss, target, mask and weight.

    A mapping makes `weight` a schedule (`auxjax.weighting.static`) and switches `stop_gradient` at a step:
    `{"from_steps": n}` or `{"until_steps": n}`. Raises AuxjaxError for any other form of `stop_gradient`.
    """

    at: str
    module: nn.Module
    loss: str | Callable[..., jax.Array] = "softmax_cross_entropy"
    target: str = "label"
    mask: str = "mask"
    weight: float | Mapping[str, Any] = 0.3
    stop_gradient: bool | Mapping[str, int] = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for field in ("weight", "stop_gradient"):  # hashable, as a static part of a compiled program has to be
            value = getattr(self, field)
            object.__setattr__(self, field, freeze(dict(value)) if isinstance(value, Mapping) else value)
        stop = self.stop_gradient
        scheduled = isinstance(stop, Mapping) and list(stop) in (["from_steps"], ["until_steps"])
        if not (scheduled or isinstance(stop, bool)):
            expected = "a bool, {'from_steps': n} or {'until_steps': n}"
            raise AuxjaxError(f"stop_gradient of the head at {self.at!r} must be {expected}, not {stop!r}")


def cost(module: nn.Module, *input_specs: jax.ShapeDtypeStruct, train: bool = False) -> dict[str, float]:
    """Returns `{"params": count, "flops": of one forward pass}` of a head or a model; nothing is run.

    FLOPs are XLA's estimate for the lowered, uncompiled program at that batch size; a multiply-add is two.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))

    def init(key: jax.Array, *inputs: jax.Array) -> Any:
        return module.init({"params": key, "dropout": key}, *inputs, train=train)

    def forward(variables: Any, key: jax.Array, *inputs: jax.Array) -> Any:
        return module.apply(variables, *inputs, train=train, rngs={"dropout": key}, mutable=["batch_stats"])

    variables = jax.eval_shape(init, key, *input_specs)
    analysis: Any = jax.jit(forward).lower(variables, key, *input_specs).cost_analysis()
    params = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    return {"params": params, "flops": float(analysis.get("flops", 0.0))}
