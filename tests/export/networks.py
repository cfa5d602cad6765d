"""Networks with BatchNorm far from its first values, so that what is folded or saved wrong shows."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from auxjax.export import Network, bare_network
from auxjax.proof import bare_shapes

_RANGES = {"mean": (-0.3, 0.3), "var": (0.3, 1.5), "scale": (0.6, 1.5), "bias": (-0.3, 0.3)}


def make(model: nn.Module, shape: tuple[int, ...]) -> Network:
    """The network of a model with random variables, drawn without compiling its init."""
    generator = np.random.default_rng(0)

    def leaf(path: Any, x: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in _RANGES:
            return generator.uniform(*_RANGES[path[-1].key], x.shape).astype(x.dtype)
        return (generator.normal(size=x.shape) / np.sqrt(max(np.prod(x.shape[:-1]), 1))).astype(x.dtype)

    shapes = bare_shapes(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return bare_network(model, jax.tree_util.tree_map_with_path(leaf, shapes), shape)
