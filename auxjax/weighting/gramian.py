"""Symmetric methods that solve a convex problem over the Gramian G of the K trunk gradients g_0 (main), ..., g_{K-1}.

n_k = ||g_k||. A main loss without company always has the weight 1. A direction is 0, and so are its weights, where the
gradients that it is made of balance each other out within rounding: ||d||^2 <= 10 units of rounding (sum w_k n_k)^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError, unknown
from auxjax.weighting.active_set import quotient
from auxjax.weighting.asymmetric import gramian_in
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, no_state
from auxjax.weighting.quadratic import box_minimum, fair, nash, simplex_minimum, towards_the_worst
from auxjax.weighting.scalarized import bounded_losses, unless_alone

NORMALIZERS = ("none", "l2", "loss", "loss+")


def of_gramian(weights: Callable[[jax.Array], jax.Array]) -> Weighting:
    """Returns the weighting without state whose weights are a function of the Gramian."""

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        return Update(unless_alone(weights(gramian_in(signals)))), state

    return Weighting(no_state, update, frozenset({"gramian"}))


def unless_balanced(weights: jax.Array, gramian: jax.Array) -> jax.Array:
    """Returns the weights, or 0 where rounding is all that is left of the gradients' weighted sum."""
    terms = weights @ jnp.sqrt(jnp.maximum(jnp.diag(gramian), 0.0))
    rounding = 10 * jnp.finfo(gramian.dtype).eps * terms**2
    return jnp.where(weights @ gramian @ weights > rounding, weights, 0.0)


def mgda(normalizer: str = "none") -> Weighting:
    """Multiple-gradient descent: d is the shortest vector in the convex hull of the gradients, after normalisation.

    w = v / c, v = argmin ||sum v_k g_k / c_k||^2 on the simplex, with c = 1 ("none"), n ("l2"), the losses ("loss") or
    their products ("loss+"). g_k . d >= c_k ||d||^2 for every k: no loss rises, to first order. A zero gradient makes
    d = 0. No state.

    Sener & Koltun 2018, arXiv 1810.04650, section 3.2. Deviations: the solution is exact, not Frank-Wolfe's; and d is
    made of the normalised gradients, as in LibMTL, where the authors' code takes v for the plain ones, with which
    losses may rise. A loss below 1e-8 counts as 1e-8. LibMTL keeps each of two weights in [0.001, 0.999]; TorchJD stops
    Frank-Wolfe at 1e-3.
    """
    if normalizer not in NORMALIZERS:
        raise unknown("normalizer of mgda", normalizer, NORMALIZERS)
    needs = frozenset({"gramian", "losses"} if "loss" in normalizer else {"gramian"})

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        gramian = gramian_in(signals)
        by = jnp.ones_like(gramian[0])
        if normalizer in ("l2", "loss+"):
            by = jnp.sqrt(jnp.maximum(jnp.diag(gramian), 0.0))
        if "loss" in normalizer:
            by = by * bounded_losses(signals)
        normalized = quotient(quotient(gramian, by.reshape(-1, 1)), by.reshape(1, -1))
        weights = quotient(simplex_minimum(normalized), by)
        return Update(unless_alone(unless_balanced(weights, gramian))), state

    return Weighting(no_state, update, needs)


def cagrad(radius: float = 0.4) -> Weighting:
    """Conflict-averse descent: near the mean gradient m, the direction from which the worst-off loss gains most.

    d = argmax over ||d - m|| <= radius ||m|| of min_k g_k . d = m + radius ||m|| g_v / ||g_v||, g_v = sum v_k g_k,
    v = argmin g_v . m + radius ||m|| ||g_v|| on the simplex. w_k = (1 / K + radius ||m|| v_k / ||g_v||) / (1 + radius).
    No state.

    Liu et al. 2021, arXiv 2110.14048, algorithm 1 (c is `radius`; 0.4 as in its experiments and nash-mtl, 0.5 in
    LibMTL). Of its code's three scales this is the last, 1 / (1 + c), which gives equal gradients the weights of their
    mean. LibMTL divides by 1 + c^2; nash-mtl does so and multiplies by K; TorchJD divides by nothing, and gives 0 where
    the gradients balance each other out.
    """
    if not radius >= 0:
        raise AuxjaxError(f"radius of cagrad must be at least 0, not {radius!r}")
    return of_gramian(lambda gramian: (1 / len(gramian) + towards_the_worst(gramian, radius)) / (1 + radius))


def upgrad(regularisation: float = 0.0) -> Weighting:
    """Unconflicting projection: d is the mean of the gradients, each projected on the cone that harms no loss.

    w = sum_i argmin {v'Hv : v >= e_i / K}, H = G / trace G + regularisation I. With `regularisation` 0 the i-th
    projection is the nearest to g_i / K of the vectors that have no negative product with any gradient, and d is one of
    them: no loss rises, to first order. With more of it weights stay bounded, and small gradients in conflict with
    large ones may be overruled. No state.

    Quinton & Rey 2024, arXiv 2406.16232, equation 5. TorchJD is the authors'; its regularisation of 1e-4
    lets a small main be overruled, so the default here is none.
    """
    _check_regularisation("upgrad", regularisation)

    def weights(gramian: jax.Array) -> jax.Array:
        lower = jnp.eye(len(gramian), dtype=gramian.dtype) / len(gramian)
        found = jax.vmap(box_minimum, in_axes=(None, 0))(_regular(gramian, regularisation), lower).sum(axis=0)
        return unless_balanced(found, gramian)

    return of_gramian(weights)


def dual_proj(regularisation: float = 0.0) -> Weighting:
    """Dual projection: d is the mean gradient projected on the cone that harms no loss.

    w = argmin {v'Hv : v >= 1 / K}, H = G / trace G + regularisation I, which acts as in `upgrad`. Main has no
    precedence: in a conflict it gives way to the others as they do to it. No state.

    Lopez-Paz & Ranzato 2017 (GEM), arXiv 1706.08840, equation 11, applied to the mean as by Quinton & Rey 2024, arXiv
    2406.16232, section 3. TorchJD agrees; its regularisation is 1e-4.
    """
    _check_regularisation("dual_proj", regularisation)

    def weights(gramian: jax.Array) -> jax.Array:
        found = box_minimum(_regular(gramian, regularisation), jnp.full_like(gramian[0], 1 / len(gramian)))
        return unless_balanced(found, gramian)

    return of_gramian(weights)


def nash_mtl(max_norm: float = 0.0) -> Weighting:
    """Nash bargaining: the direction with the greatest product of the losses' gains, over all directions of one length.

    G w = 1 / w, elementwise: every loss falls, w_k g_k . d = 1, and ||d||^2 = K whatever the gradients' lengths. Where
    `max_norm` > 0, d is shortened to that length if it is longer. No state.

    Navon et al. 2022, arXiv 2202.01017, claim 3.1 and algorithm 1. Deviation: the equation is solved by Newton's method
    on a convex objective, where the authors' code (nash-mtl), LibMTL and TorchJD take 20 rounds of the concave-convex
    procedure, and by default shorten d to 1.
    """
    if not max_norm >= 0:
        raise AuxjaxError(f"max_norm of nash_mtl must be at least 0, not {max_norm!r}")

    def weights(gramian: jax.Array) -> jax.Array:
        found = unless_balanced(nash(gramian, jnp.ones_like(gramian[0])), gramian)
        if not max_norm:
            return found
        length = jnp.sqrt(jnp.maximum(found @ gramian @ found, 0.0))
        return found * (max_norm / jnp.maximum(length, max_norm))

    return of_gramian(weights)


def fair_grad(alpha: float = 2.0) -> Weighting:
    """Fair resource allocation: the direction with the greatest alpha-fair utility of the losses' gains.

    G w = w^(-1/alpha), elementwise: every loss falls. alpha = 1 is Nash-MTL; towards 0 it is the sum, and towards
    infinity every loss gains alike. No state.

    Ban & Ji 2024, arXiv 2402.15638, equation 4 and algorithm 1; alpha = 2 as in the authors' scripts, 1 in LibMTL.
    Deviation: it is solved by Newton's method on a convex objective, where they and TorchJD call SciPy's least squares.
    """
    if not alpha > 0:
        raise AuxjaxError(f"alpha of fair_grad must be above 0, not {alpha!r}")
    return of_gramian(lambda gramian: unless_balanced(fair(gramian, alpha), gramian))


def _regular(gramian: jax.Array, regularisation: float) -> jax.Array:
    diagonal = regularisation * jnp.eye(len(gramian), dtype=gramian.dtype)
    return quotient(gramian, jnp.trace(gramian)) + diagonal


def _check_regularisation(name: str, regularisation: float) -> None:
    if not regularisation >= 0:
        raise AuxjaxError(f"regularisation of {name} must be at least 0, not {regularisation!r}")


_SYMMETRIC = frozenset({"symmetric", "heads_symmetric"})
_DESCENT = frozenset({"main_first", "all_descend"})
METHODS: dict[str, Method] = {
    "mgda": Method(
        mgda,
        "Sener & Koltun 2018, arXiv 1810.04650, section 3.2",
        _DESCENT,
        "LibMTL (clips two weights), TorchJD (Frank-Wolfe)",
    ),
    "cagrad": Method(
        cagrad,
        "Liu et al. 2021, arXiv 2110.14048, algorithm 1",
        frozenset(),
        "LibMTL (over 1 + c^2), TorchJD (no scale), nash-mtl (times K)",
    ),
    "upgrad": Method(
        upgrad, "Quinton & Rey 2024, arXiv 2406.16232, equation 5", _SYMMETRIC | _DESCENT, "TorchJD (regularised)"
    ),
    "dual_proj": Method(
        dual_proj,
        "Lopez-Paz & Ranzato 2017, arXiv 1706.08840, equation 11",
        _SYMMETRIC | _DESCENT,
        "TorchJD (regularised)",
    ),
    "nash_mtl": Method(
        nash_mtl,
        "Navon et al. 2022, arXiv 2202.01017, algorithm 1",
        _SYMMETRIC | _DESCENT | {"scale_invariant"},
        "nash-mtl, LibMTL, TorchJD (20 rounds of a procedure; length at most 1)",
    ),
    "fair_grad": Method(
        fair_grad,
        "Ban & Ji 2024, arXiv 2402.15638, equation 4",
        _SYMMETRIC | _DESCENT,
        "the authors' (OptMN-Lab/fairgrad), LibMTL (alpha 1), TorchJD",
    ),
}
