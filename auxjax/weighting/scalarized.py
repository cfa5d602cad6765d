"""Methods that descend one function f(L) of the K losses; the weights are its partial derivatives at the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, no_state

# A loss below counts as this one: logarithms and quotients of losses stay finite.
SMALLEST_LOSS = 1e-8
# Below the square root of a distance, whose slope has no limit at 0.
SMALLEST_SQUARE = 1e-12

Scalarization = Callable[[jax.Array], jax.Array]


class Nadir(NamedTuple):
    """How many steps STCH has taken (int32), and the sum of each loss over its warm-up, [K]."""

    steps: jax.Array
    total: jax.Array


def bounded_losses(signals: Signals) -> jax.Array:
    """Returns the losses [K], none of them below SMALLEST_LOSS."""
    if signals.losses is None:
        raise AuxjaxError("this weighting reads losses: call update with Signals(losses=...)")
    return jnp.maximum(signals.losses, SMALLEST_LOSS)


def unless_alone(weights: jax.Array) -> jax.Array:
    """Returns the weights, or [1.] where main has no company: a factor on it would only be a learning rate."""
    return jnp.ones_like(weights) if weights.shape[0] == 1 else weights


def scalarized(function: Scalarization) -> Weighting:
    """Returns the weighting w_k = df/dL_k for f: [K] -> [], at the losses; their weighted sum has the slope of f."""

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        return Update(unless_alone(jax.grad(function)(bounded_losses(signals)))), state

    return Weighting(no_state, update, frozenset({"losses"}))


def gls() -> Weighting:
    """Geometric loss strategy: f = (prod L)^(1/K), hence w_k = f / (K L_k); no state.

    Chennupati et al. 2019, MultiNet++, arXiv 1904.08492, "Geometric Loss Strategy". Deviation: a loss below 1e-8 counts
    as 1e-8. LibMTL takes the same step and logs reciprocals as its weights; TorchJD agrees.
    """
    return scalarized(lambda losses: jnp.exp(jnp.mean(jnp.log(losses))))


def scale_invariant() -> Weighting:
    """Scale-invariant sum: f = sum_k log L_k, hence w_k = 1 / L_k; no state.

    A baseline of Navon et al. 2022 (Nash-MTL, arXiv 2202.01017, section 6), whose code agrees. Deviation: a loss below
    1e-8 counts as 1e-8.
    """
    return scalarized(lambda losses: jnp.sum(jnp.log(losses)))


def stch(mu: float = 1.0, warmup_steps: int = 100) -> Weighting:
    """Smooth Tchebycheff: f = K mu log sum_k exp(log(L_k / n_k) / mu), hence w_k = K softmax(log(L / n) / mu)_k / L_k.

    The nadir n is the mean of each loss over the first `warmup_steps` steps, in which f = sum_k log L_k; with none of
    them n = 1. The state holds the count of steps and the sums of the losses.

    Lin et al. 2024, arXiv 2402.19078, section 3, in the form of its multi-task code: logarithms of losses, ideal point
    0, equal preferences, times K, mu = 1. Deviations: that code warms up for four epochs and averages over one more,
    and a step knows no epoch; a loss below 1e-8 counts as 1e-8. LibMTL has that code; TorchJD has the plain f of the
    losses themselves, with neither logarithm, nadir nor factor K.
    """
    if not mu > 0 or warmup_steps < 0:
        raise AuxjaxError(f"stch needs mu > 0 and warmup_steps >= 0, not {mu!r} and {warmup_steps!r}")

    def init(names: tuple[str, ...], trunk: Any) -> Nadir:
        return Nadir(jnp.zeros((), jnp.int32), jnp.zeros(len(names)))

    def update(signals: Signals, state: Nadir) -> tuple[Update, Nadir]:
        losses = bounded_losses(signals)
        warm = state.steps < warmup_steps
        nadir = state.total / warmup_steps if warmup_steps else jnp.ones_like(state.total)
        ratios = jnp.log(losses) - jnp.log(jnp.maximum(nadir, SMALLEST_LOSS))
        shares = len(losses) * jax.nn.softmax(ratios / mu)
        weights = jnp.where(warm, jnp.ones_like(losses), shares) / losses
        total = jnp.where(warm, state.total + losses, state.total).astype(state.total.dtype)
        steps = jnp.minimum(state.steps + 1, warmup_steps)
        return Update(unless_alone(weights)), Nadir(steps, total)

    return Weighting(init, update, frozenset({"losses"}))


def preference(count: int, main_preference: float) -> jax.Array:
    """Returns [count] that sums to 1: main's share, and the rest divided equally among the others."""
    if count == 1:
        return jnp.ones(1)
    return jnp.full(count, (1.0 - main_preference) / (count - 1)).at[0].set(main_preference)


def cosmos(main_preference: float = 0.5, penalty: float = 2.0) -> Weighting:
    """COSMOS: f = r . L - penalty cos(r, L), with the preference r of `main_preference` for main; no state.

    The cosine draws the losses towards the ray of r, so with a large penalty a large preference for main lets main's
    loss be the larger one; weights may be negative.

    Ruchte and Grabocka 2021, arXiv 2103.13392, the training objective; the penalty is their code's for Multi-MNIST
    (0.01 to 8 over their data sets). Deviations: r is fixed, not drawn for each batch, and the network is not given
    r; a loss below 1e-8 counts as 1e-8. TorchJD agrees.
    """
    _check_preference("cosmos", main_preference)

    def function(losses: jax.Array) -> jax.Array:
        r = preference(len(losses), main_preference).astype(losses.dtype)
        return jnp.dot(r, losses) - penalty * jnp.dot(r, losses) / (jnp.linalg.norm(r) * jnp.linalg.norm(losses))

    return scalarized(function)


def pbi(main_preference: float = 0.5, penalty: float = 5.0) -> Weighting:
    """Penalty-based boundary intersection: f = d_1 + penalty d_2, d_1 = L . u, d_2 = ||L - d_1 u||, u = r / ||r||.

    r is the preference of `main_preference` for main. d_2 draws the losses towards the ray of r, so a large preference
    for main lets main's loss be the larger one; weights may be negative. No state.

    Zhang and Li 2007 (MOEA/D, doi 10.1109/TEVC.2007.892759), section II-C; penalty 5 as in its experiments, ideal point
    0. Deviations: d_2 = sqrt(||.||^2 + 1e-12), which has a slope on the ray too; a loss below 1e-8 counts as 1e-8.
    TorchJD agrees.
    """
    _check_preference("pbi", main_preference)

    def function(losses: jax.Array) -> jax.Array:
        r = preference(len(losses), main_preference).astype(losses.dtype)
        unit = r / jnp.linalg.norm(r)
        along = jnp.dot(losses, unit)
        across = losses - along * unit
        return along + penalty * jnp.sqrt(jnp.dot(across, across) + SMALLEST_SQUARE)

    return scalarized(function)


def _check_preference(name: str, main_preference: float) -> None:
    if not 0 < main_preference <= 1:
        raise AuxjaxError(f"main_preference of {name} must be above 0 and at most 1, not {main_preference!r}")


_ALL = frozenset({"scale_invariant", "symmetric", "heads_symmetric"})
METHODS: dict[str, Method] = {
    "gls": Method(gls, "Chennupati et al. 2019, arXiv 1904.08492", _ALL, "TorchJD; LibMTL (logs 1/w)"),
    "si": Method(scale_invariant, "Navon et al. 2022, arXiv 2202.01017, section 6", _ALL, "nash-mtl"),
    "stch": Method(
        stch, "Lin et al. 2024, arXiv 2402.19078, section 3", _ALL, "LibMTL; TorchJD (no logarithm, no nadir)"
    ),
    "cosmos": Method(cosmos, "Ruchte & Grabocka 2021, arXiv 2103.13392", frozenset({"heads_symmetric"}), "TorchJD"),
    "pbi": Method(
        pbi, "Zhang & Li 2007, doi 10.1109/TEVC.2007.892759, section II-C", frozenset({"heads_symmetric"}), "TorchJD"
    ),
}
