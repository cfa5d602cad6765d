"""Max pooling whose gradient is a gather, not the scatter that XLA makes of it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from auxjax.ops.platform import fast_on_cpu

Pads = tuple[tuple[int, int], ...]


def max_pool(
    x: jax.Array, window_shape: Sequence[int], strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:  # fmt: skip
    """Returns `nn.max_pool` of float[..., spatial, C], bit for bit; of equal maxima a window's first gets the gradient.

    `window_shape` and `strides` (default 1) cover the spatial axes; `padding` is "SAME", "VALID" or (low, high) pairs,
    filled with -inf.
    """
    window, steps = tuple(window_shape), tuple(strides or (1,) * len(window_shape))
    if not fast_on_cpu():
        pairs = padding if isinstance(padding, str) else tuple(padding)
        return nn.max_pool(x, window, strides=steps, padding=pairs)
    spatial = x.shape[x.ndim - 1 - len(window) : -1]
    pads = lax.padtype_to_pads(spatial, window, steps, padding) if isinstance(padding, str) else padding
    return _pool(window, steps, tuple((int(low), int(high)) for low, high in pads))(x)


@functools.lru_cache(maxsize=64)
def _pool(window: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> Callable[[jax.Array], jax.Array]:
    """Returns the pool of one geometry: a running maximum of shifted slices, and its gradient."""

    def plain(x: jax.Array) -> jax.Array:
        return functools.reduce(lax.max, _views(x, window, strides, pads))

    def forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        y = plain(x)
        return y, (x, y)

    def backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array]:
        x, y = saved
        # The winner's place is found again from x and y, which costs less than keeping it; the first match wins.
        winner = jnp.zeros(y.shape, jnp.uint8 if len(list(_offsets(window))) < 256 else jnp.int32)
        for place, view in reversed(list(enumerate(_views(x, window, strides, pads)))):
            winner = jnp.where(view == y, winner.dtype.type(place), winner)
        return (_gather(x.shape, winner, gradient, window, strides, pads),)

    pool = jax.custom_vjp(plain)
    pool.defvjp(forward, backward)
    return pool


def _offsets(window: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, window))


def _padded(x: jax.Array, pads: Sequence[tuple[int, int]], value: float) -> jax.Array:
    lead = x.ndim - 1 - len(pads)
    return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0)] * lead + [(lo, hi, 0) for lo, hi in pads] + [(0, 0, 0)])


def _slice(x: jax.Array, starts: Sequence[int], limits: Sequence[int], strides: Sequence[int]) -> jax.Array:
    """Slices the spatial axes, which are those before the last."""
    lead = x.ndim - 1 - len(starts)
    begin, end = [0] * lead + [*starts, 0], [*x.shape[:lead], *limits, x.shape[-1]]
    return lax.slice(x, begin, end, [1] * lead + [*strides, 1])


def _views(x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> Iterator[jax.Array]:
    """Yields for each place in the window, in row-major order, what all outputs see there."""
    padded = _padded(x, pads, -jnp.inf)
    spatial = padded.shape[padded.ndim - 1 - len(window) : -1]
    outputs = [(size - w) // s + 1 for size, w, s in zip(spatial, window, strides, strict=True)]
    for offset in _offsets(window):
        limits = [o + (n - 1) * s + 1 for o, n, s in zip(offset, outputs, strides, strict=True)]
        yield _slice(padded, offset, limits, strides)


def _gather(
    shape: tuple[int, ...], winner: jax.Array, gradient: jax.Array, window: tuple[int, ...], strides: tuple[int, ...],
    pads: Pads,
) -> jax.Array:  # fmt: skip
    """Returns the input's gradient: each input sums the gradients of the outputs that it won.

    Inputs of one residue modulo the strides see the same places of their windows, so each residue class is one loop
    without strides; the classes are then interleaved.
    """
    lead, n = len(shape) - 1 - len(window), len(window)
    if window == strides and not any(sum(pads, ())):
        return _tiled(shape, winner, gradient, window)
    lengths = [-(-(shape[lead + i] + pads[i][0]) // strides[i]) for i in range(n)]
    reach = [-(-window[i] // strides[i]) - 1 for i in range(n)]
    margins = [(reach[i], max(0, lengths[i] - gradient.shape[lead + i])) for i in range(n)]
    places = {offset: place for place, offset in enumerate(_offsets(window))}
    gradients, winners = _padded(gradient, margins, 0), _padded(winner, margins, 0)

    def one_class(residues: tuple[int, ...]) -> jax.Array:
        total = jnp.zeros((*shape[:lead], *lengths, shape[-1]), gradient.dtype)
        for offset in places:
            if all(offset[i] % strides[i] == residues[i] for i in range(n)):
                starts = [reach[i] - offset[i] // strides[i] for i in range(n)]
                limits = [start + length for start, length in zip(starts, lengths, strict=True)]
                won = _slice(winners, starts, limits, (1,) * n) == places[offset]
                total = total + jnp.where(won, _slice(gradients, starts, limits, (1,) * n), 0)
        return total

    def interleaved(residues: tuple[int, ...]) -> jax.Array:
        axis = lead + len(residues)
        if len(residues) == n:
            return one_class(residues)
        parts = [interleaved((*residues, r)) for r in range(strides[len(residues)])]
        stacked = jnp.stack(parts, axis=axis + 1)
        return stacked.reshape(*stacked.shape[:axis], -1, *stacked.shape[axis + 2 :])

    starts = [low for low, _ in pads]
    limits = [low + size for low, size in zip(starts, shape[lead:-1], strict=True)]
    return _slice(interleaved(()), starts, limits, (1,) * n)


def _tiled(shape: tuple[int, ...], winner: jax.Array, gradient: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Returns the same for windows that lie side by side: each input is in one of them, or in none at the far edge."""
    lead, n = len(shape) - 1 - len(window), len(window)
    between = [lead + 1 + 2 * i for i in range(n)]
    place = np.arange(math.prod(window)).reshape([size for w in window for size in (1, w)] + [1])
    won = jnp.expand_dims(winner, between) == jnp.asarray(place.reshape((1,) * lead + place.shape), winner.dtype)
    tiles = jnp.where(won, jnp.expand_dims(gradient, between), 0)
    covered = [size * w for size, w in zip(gradient.shape[lead:-1], window, strict=True)]
    rest = [(0, size - inside) for size, inside in zip(shape[lead:-1], covered, strict=True)]
    return _padded(tiles.reshape(*shape[:lead], *covered, shape[-1]), rest, 0)
