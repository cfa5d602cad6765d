"""Gradients of one main and some auxiliary losses, easy and hard, and one compiled run of a weighting over them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.weighting.protocol import Signals, Weighting, combine

SIZE = 6
Array = np.ndarray[Any, np.dtype[Any]]


class Run(NamedTuple):
    """The weights [T, N, K], the directions [T, N, d], and the last state of N runs of T steps."""

    weights: Array
    directions: Array
    state: Any


def families(k: int, seed: int = 0, count: int = 4) -> dict[str, Array]:
    """Returns gradients [count, k, SIZE] in float64 by the name of what is hard about them, main first."""
    draw = np.random.default_rng(seed)
    plain = draw.standard_normal((count, k, SIZE))
    main = plain[:, :1]
    against = plain - 3 * main
    against[:, 0] = main[:, 0]
    scales = 10.0 ** draw.uniform(-4, 4, (count, k, 1))
    scales[0, 0], scales[0, -1], scales[1, 0], scales[1, -1] = 1e4, 1e-4, 1e-4, 1e4
    zero_main, zero_other = plain.copy(), plain.copy()
    zero_main[:, 0], zero_other[:, -1] = 0, 0
    return {
        "random": plain,
        "conflicting": against,
        "parallel": main + 1e-4 * plain,
        "opposed": np.concatenate([main, -main * np.arange(1.0, k).reshape(1, -1, 1)], axis=1),
        "rank one": main * draw.standard_normal((count, k, 1)),
        "zero main": zero_main,
        "zero auxiliary": zero_other,
        "all zero": np.zeros_like(plain),
        "badly scaled": plain * scales,
        "tiny": plain * 1e-12,
        "large": plain * 1e8,
    }


def as_tree(vector: Any) -> Any:
    """Returns a vector [SIZE] as a tree of three arrays."""
    return {"a": vector[:2], "b": {"c": vector[2:5].reshape(3, 1), "d": vector[5]}}


def as_vector(tree: Any) -> Any:
    """Returns the vector [SIZE] of such a tree."""
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])


def signals(gradients: Any, index: Any = 0) -> Signals:
    """Returns what a weighting sees of gradients [K, SIZE]; its losses are not asked for here."""
    gramian = jnp.matmul(gradients, gradients.T, precision="highest")
    trees = tuple(as_tree(g) for g in gradients)
    return Signals(jnp.asarray(index, jnp.int32), jnp.asarray(0.5), gramian=gramian, gradients=trees)


def run(weighting: Weighting, gradients: Array, dtype: Any = np.float32) -> Run:
    """Returns what the weighting makes of gradients [T, N, K, SIZE]: N runs at once, in one compiled program."""
    names = tuple(f"loss{i}" for i in range(gradients.shape[2]))

    def one(state: Any, g: Any) -> tuple[Any, tuple[Any, Any]]:
        seen = signals(g)
        update, state = weighting.update(seen, state)
        assert seen.gradients is not None
        tree = combine(update.weights, seen.gradients) if update.direction is None else update.direction
        return state, (update.weights, as_vector(tree))

    def many(g: Any) -> Any:
        start = weighting.init(names, as_tree(g[0, 0]))
        return jax.lax.scan(one, start, g)

    inputs = jnp.asarray(gradients, dtype)
    assert inputs.dtype == dtype
    state, (weights, directions) = jax.jit(jax.vmap(many, in_axes=1, out_axes=(0, 1)))(inputs)
    assert weights.dtype == directions.dtype == dtype
    return Run(np.asarray(weights), np.asarray(directions), state)


def steps(k: int, count: int, runs: int = 3, seed: int = 1) -> Array:
    """Returns random gradients [count, runs, k, SIZE] of changing length, some of them in conflict with main's."""
    draw = np.random.default_rng(seed)
    return draw.standard_normal((count, runs, k, SIZE)) * draw.uniform(0.1, 3, (count, runs, k, 1))
