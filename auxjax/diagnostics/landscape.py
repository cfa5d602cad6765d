"""Slices of the loss: along random directions of the filters' own size, and along the line between two networks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.diagnostics.by_loss import listed
from auxjax.diagnostics.inference import coefficients, loss_names, mean_losses
from auxjax.errors import AuxjaxError, unknown
from auxjax.ops import fast_init
from auxjax.state import Batch, TrainState


def landscape(
    state: TrainState, batch: Batch, *, loss: str = "main", axes: int = 1, points: int = 21, reach: float = 1.0,
    pieces: int = 1, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Returns one record of the mean loss over the batch along one or two random directions, in inference mode.

    Each axis has `points` from -`reach` to `reach`, in units of the parameters' own norms (`direction`); an odd number
    has the network itself in the middle. The record's "loss" is [points], or [points along y][points along x].
    The directions are in the model's parameters; the heads' own, and BatchNorm's averages, stay as they are (Li et al.
    recompute neither). `loss` and `pieces` are as for `hessian`; the weights of "total" are those at the middle.
    Raises AuxjaxError for an unknown loss, other than one or two axes, fewer than two points, and unequal pieces.
    """
    return _slices(state, batch, (loss,), axes, points, reach, pieces, seed)[0]


def records(
    state: TrainState, batch: Batch, *, axes: int = 1, points: int = 21, reach: float = 1.0, pieces: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Returns the records of main and of the total, along the same directions and from one pass over them."""
    return _slices(state, batch, ("main", "total"), axes, points, reach, pieces, seed)


def between(
    state: TrainState, other: TrainState, batch: Batch, *, loss: str = "main", points: int = 21, overshoot: float = 0.0,
    pieces: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Returns one record of the loss along the straight line from `state` (x = 0) to `other` (x = 1).

    Goodfellow, Vinyals & Saxe 2015, arXiv 1412.6544, section 3. Parameters of model and heads and BatchNorm's averages
    are all interpolated, so that both ends are the two networks; `overshoot` goes that far past either end. Program and
    weights are those of `state`.
    Raises AuxjaxError for an unknown loss, fewer than two points, and states whose arrays differ in name or shape.
    """
    ends = [(s.params, s.statistics) for s in (state, other)]
    first, second = (jax.tree_util.tree_flatten_with_path(end)[0] for end in ends)
    if [(path, x.shape) for path, x in first] != [(path, x.shape) for path, x in second]:
        raise AuxjaxError("a line needs two states of one network with the same heads; these differ in their arrays")
    x = _axis(points, -overshoot, 1 + overshoot)
    losses = np.asarray(_line(state, *ends, batch, jnp.asarray(x), pieces), np.float64)
    weights = np.asarray(coefficients(state, batch, loss), np.float64)
    return _record(loss, x, None, losses @ weights)


def direction(key: jax.Array, params: Any) -> Any:
    """Returns a random direction whose filters have the norms of the filters of `params`.

    d_ij <- d_ij |theta_ij| / |d_ij|, d Gaussian, j a filter of layer i (Li et al. 2018, arXiv 1712.09913, section 4):
    in an array of two and more axes, what feeds one entry of the last, which is Flax's axis of output channels. Arrays
    of one axis, biases and the scales and shifts of norms, get zero, as in the authors' code.
    """
    leaves, structure = jax.tree.flatten(params)

    def one(key: jax.Array, theta: jax.Array) -> jax.Array:
        if theta.ndim < 2:
            return jnp.zeros_like(theta)
        noise = jax.random.normal(key, theta.shape, theta.dtype)
        norms = [jnp.linalg.norm(x.reshape(-1, x.shape[-1]), axis=0) for x in (theta, noise)]
        return noise * (norms[0] / norms[1]).reshape((1,) * (theta.ndim - 1) + (-1,))

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [one(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def _slices(
    state: TrainState, batch: Batch, wanted: tuple[str, ...], axes: int, points: int, reach: float, pieces: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    names = loss_names(state)
    for loss in wanted:
        if loss not in names:
            raise unknown("loss", loss, names)
    if axes not in (1, 2):
        raise AuxjaxError(f"a landscape has one or two axes, not {axes}")
    x = _axis(points, -reach, reach)
    grid = np.stack(np.meshgrid(*[x] * axes), -1).reshape(-1, axes)
    directions = [_direction(k, state.params["model"]) for k in jax.random.split(jax.random.key(seed), axes)]
    losses = np.asarray(_plane(state, batch, jnp.asarray(grid), directions, pieces), np.float64)
    found = []
    for loss in wanted:
        values = losses @ np.asarray(coefficients(state, batch, loss), np.float64)
        found.append(_record(loss, x, x if axes == 2 else None, values.reshape([points] * axes)))
    return found


def _axis(points: int, low: float, high: float) -> np.ndarray:
    if points < 2:
        raise AuxjaxError(f"a slice needs at least two points, not {points}")
    return np.linspace(low, high, points, dtype=np.float32)


def _record(loss: str, x: np.ndarray, y: np.ndarray | None, values: np.ndarray) -> dict[str, Any]:
    return {
        "diagnostic": "landscape",
        "of": loss,
        "x": listed(x),
        "y": None if y is None else listed(y),
        "loss": listed(values),
    }


# A random array a leaf, each of which the compiler's optimiser would work on for long.
_direction = fast_init(direction)


@functools.partial(jax.jit, static_argnums=4)
def _plane(state: TrainState, batch: Batch, grid: jax.Array, directions: list[Any], pieces: int) -> jax.Array:
    """Returns the K losses at each place [points, axes] of the grid, float32[points, K]."""

    def at(place: jax.Array) -> jax.Array:
        def move(theta: jax.Array, *steps: jax.Array) -> jax.Array:
            return theta + sum(place[i].astype(theta.dtype) * step for i, step in enumerate(steps))

        moved = jax.tree.map(move, state.params["model"], *directions)
        return mean_losses(state, {**state.params, "model": moved}, batch, pieces)

    return jax.lax.map(at, grid)


@functools.partial(jax.jit, static_argnums=5)
def _line(state: TrainState, start: Any, end: Any, batch: Batch, places: jax.Array, pieces: int) -> jax.Array:
    """Returns the K losses at each place of the line, float32[points, K]."""

    def at(place: jax.Array) -> jax.Array:
        def mix(a: jax.Array, b: jax.Array) -> jax.Array:
            return (1 - place.astype(a.dtype)) * a + place.astype(a.dtype) * b

        params, statistics = jax.tree.map(mix, start, end)
        return mean_losses(state.replace(statistics=statistics), params, batch, pieces)

    return jax.lax.map(at, places)
