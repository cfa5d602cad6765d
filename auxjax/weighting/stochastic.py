"""Methods that need the inner products of gradients from two independent samples: A_ij = g_i(t) . g_j(t - 1).

The second sample is the last step's batch: its K gradients are kept in the state, as K trees as large as the trunk. The
papers draw two or three batches at one point of training instead, which takes as many forward and backward passes; the
parameters have moved by one step between the two here. At the first step A = 0, and the weights are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.directions import gradients_in, wide
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, inner
from auxjax.weighting.scalarized import unless_alone
from auxjax.weighting.tracked import onto_simplex


class Sampled(NamedTuple):
    """The last step's K gradients (trees in float32 or wider) and the weights [K]."""

    gradients: tuple[Any, ...]
    weights: jax.Array


def modo(learning_rate: float = 0.001, regularisation: float = 0.1) -> Weighting:
    """Multi-objective descent with double sampling: one projected step towards the least point of the hull at a time.

    w <- P(w - learning_rate (A w + regularisation w)), P the projection onto the simplex, w = 1 / K at first;
    d = sum_k w_k g_k. The expectation of A is the Gramian of the expected gradients, which that of one sample is not.
    The state holds w and the last gradients.

    Chen et al. 2023, NeurIPS (arXiv 2305.20057), algorithm 1; the rates are those of the authors' code in LibMTL
    (TorchJD has 0.1 for both). Deviations: the second sample is the last step's (see above), and d is made of the
    first, where the authors take a third sample or the mean of both.
    """

    def weights(products: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = onto_simplex(old - learning_rate * (products @ old + regularisation * old))
        return new, new

    return _double_sampled(weights)


def sdmgrad(
    strength: float = 0.3, learning_rate: float = 10.0, momentum: float = 0.5, iterations: int = 20
) -> Weighting:
    """Direction-oriented descent: the least point of the gradients' hull, drawn towards their mean.

    w <- argmin ||sum_k (w_k + strength / K) g_k||^2 on the simplex, by `iterations` steps of projected SGD with
    momentum from the last w, the slope being A (w + strength / K) / s^2, s the mean over k of sqrt(max(A_kk, 0)). The
    weights are (w + strength / K) / (1 + strength) and sum to 1. The state holds w and the last gradients.

    Xiao et al. 2023, NeurIPS (arXiv 2305.18409), algorithm 1 and section 6.1; `strength` is lambda, and the defaults
    are those of the authors' experiments, as in LibMTL and TorchJD. Deviations: the second sample is the last step's
    (see above), and d is made of the first; s^2 is at least 1e-6 max |A_ij|, where 1e-8 is added to it.
    """
    if iterations < 1:
        raise AuxjaxError(f"iterations of sdmgrad must be at least 1, not {iterations!r}")

    def weights(products: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = len(old)
        largest = jnp.abs(products).max()
        scale = jnp.mean(jnp.sqrt(jnp.maximum(jnp.diag(products), 0.0))) ** 2
        relative = products / jnp.where(largest > 0, jnp.maximum(scale, 1e-6 * largest), 1.0)

        def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
            w, velocity = carry
            velocity = momentum * velocity + relative @ (w + strength / size)
            return (onto_simplex(w - learning_rate * velocity), velocity), None

        new = jax.lax.scan(step, (old, jnp.zeros_like(old)), length=iterations)[0][0]
        return (new + strength / size) / (1 + strength), new

    return _double_sampled(weights)


def _double_sampled(weights: Any) -> Weighting:
    """Returns the weighting of `weights(A [K, K], w [K]) -> (weights [K], new w [K])`, w of the last step."""

    def init(names: tuple[str, ...], trunk: Any) -> Sampled:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x)), trunk)
        return Sampled((zeros,) * len(names), jnp.full(len(names), 1 / len(names)))

    def update(signals: Signals, state: Sampled) -> tuple[Update, Sampled]:
        gradients = gradients_in(signals)
        products = _products(gradients, state.gradients)
        decided, new = weights(products, state.weights.astype(products.dtype))
        pairs = zip(state.gradients, gradients, strict=True)
        kept = tuple(jax.tree.map(lambda old, g: g.astype(old.dtype), *pair) for pair in pairs)
        return Update(unless_alone(decided)), Sampled(kept, new.astype(state.weights.dtype))

    return Weighting(init, update, frozenset({"gradients"}))


def _products(a: Sequence[Any], b: Sequence[Any]) -> jax.Array:
    return jnp.stack([jnp.stack([inner(x, y) for y in b]) for x in a])


_PROMISES = frozenset({"sum_one", "symmetric", "heads_symmetric"})
METHODS: dict[str, Method] = {
    "modo": Method(
        modo,
        "Chen et al. 2023, arXiv 2305.20057, algorithm 1",
        _PROMISES,
        "LibMTL (three samples), TorchJD (takes the matrix of two)",
    ),
    "sdmgrad": Method(
        sdmgrad,
        "Xiao et al. 2023, arXiv 2305.18409, algorithm 1",
        _PROMISES,
        "the authors' (OptMN-Lab/SDMGrad), LibMTL (three samples), TorchJD (takes the matrix of two)",
    ),
}
