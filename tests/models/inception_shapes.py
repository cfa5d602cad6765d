"""What the tests of the Inception networks share: shapes of all that a network holds and gives, and timm's weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from auxjax.heads import presets


def shapes(model: nn.Module, size: int, channels: int = 3) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Returns variables, all submodule outputs and the logits, as shapes."""

    def run(key: jax.Array, x: jax.Array) -> Any:
        logits, variables = model.init_with_output(key, x, train=False, mutable=True, capture_intermediates=True)
        return variables, variables.pop("intermediates"), logits

    image = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(run, jax.eval_shape(lambda: jax.random.key(0)), image)


def filled(variables: Any) -> Any:
    """Returns `variables` (shapes) filled without compiling an initialiser: He normal kernels, the rest as usual."""
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> jax.Array:
        if path[-1].key == "kernel":
            return jnp.asarray(rng.normal(size=leaf.shape, scale=(2 / np.prod(leaf.shape[:-1])) ** 0.5), leaf.dtype)
        return jnp.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, variables)


def published_head(preset: str, taps: dict[str, Any]) -> tuple[tuple[int, ...], Any]:
    """Returns the shape that the preset's one head reads, and its variables as shapes."""
    (head,) = presets(preset).values()
    tap = taps[head.at]["__call__"][0]
    module = head.module
    return tap.shape, jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), tap)


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def endpoints(taps: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Returns side and channels of every map among the submodules at the top."""
    outputs = {name: taps[name]["__call__"][0].shape for name in taps if name != "__call__"}
    return {name: (shape[1], shape[3]) for name, shape in outputs.items() if len(shape) == 4}


def from_timm(variables: dict[str, Any], pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns `variables` (shapes) filled from torch modules, given by the names of the top-level submodules.

    Inside a pair, convolutions and norms correspond in the order of their names here and of registration there.
    """
    import torch

    flat = dict(jax.tree_util.tree_leaves_with_path(variables))
    paths = {tuple(key.key for key in path): leaf.shape for path, leaf in flat.items()}
    values: dict[tuple[str, ...], np.ndarray] = {}
    for name, module in pairs:
        parts = list(module.modules())
        for leaf, kinds in (("kernel", (torch.nn.Conv2d, torch.nn.Linear)), ("scale", (torch.nn.BatchNorm2d,))):
            owners = sorted((p[:-1] for p in paths if p[:2] == ("params", name) and p[-1] == leaf), key=_natural)
            sources = [part for part in parts if isinstance(part, kinds)]
            for owner, source in zip(owners, sources, strict=True):
                values |= _arrays(owner, source)
    assert {path: value.shape for path, value in values.items()} == paths
    tree: dict[str, Any] = {}
    for path, value in values.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(value)
    return tree


def _arrays(owner: tuple[str, ...], source: Any) -> dict[tuple[str, ...], np.ndarray]:
    weight = source.weight.detach().numpy()
    found = {} if source.bias is None else {(*owner, "bias"): source.bias.detach().numpy()}
    if weight.ndim == 1:
        stats = ("batch_stats", *owner[1:])
        return found | {
            (*owner, "scale"): weight, (*stats, "mean"): source.running_mean.numpy(),
            (*stats, "var"): source.running_var.numpy(),
        }  # fmt: skip
    return found | {(*owner, "kernel"): weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T}


def _natural(path: tuple[str, ...]) -> list[Any]:
    """Orders block17_2 before block17_10."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)] for key in path]
