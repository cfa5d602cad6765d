"""What a network with the heads of a preset holds and gives in training, as shapes; nothing is compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from auxjax.attach import attach
from auxjax.heads import presets
from tests.models.inception_shapes import count


def train_shapes(model: Any, preset: str, size: int) -> tuple[int, int, dict[str, tuple[int, ...]]]:
    """Returns the parameters of the model, those of its preset's heads, and the shapes of the outputs at batch 2."""
    attached = attach(model, presets(preset, model.num_classes))

    def run(key: jax.Array, x: jax.Array) -> Any:
        variables = attached.init(key, x)
        call: dict[str, Any] = {"rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        return variables["params"], attached.apply(variables, x, train=True, **call)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, outputs = jax.eval_shape(run, key, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    return count(params["model"]), count(params["heads"]), {name: x.shape for name, x in outputs.items()}
