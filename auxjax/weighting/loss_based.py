"""Methods that weigh by the size or the speed of the losses; each keeps what it learns in its state."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from auxjax.errors import AuxjaxError
from auxjax.weighting.protocol import Method, Signals, Update, Weighting, no_state
from auxjax.weighting.scalarized import SMALLEST_LOSS, bounded_losses, unless_alone

# Below a divisor that is a sum of squared gradients.
SMALLEST_RISK = 1e-12


class Learned(NamedTuple):
    """One number per loss, [K], and the state of the optimizer that learns it."""

    values: jax.Array
    optimizer: Any


class Windows(NamedTuple):
    """DWA's steps (int32), the sums of this window, and the averages of the last two windows, each [K]."""

    steps: jax.Array
    total: jax.Array
    newer: jax.Array
    older: jax.Array


class Logits(NamedTuple):
    """FAMO's logits [K] with the state of their optimizer, and the losses [K] before the step."""

    values: jax.Array
    optimizer: Any
    before: jax.Array


class Risks(NamedTuple):
    """ExcessMTL's log weights and first excess risks, [K], and K trees of accumulated squared gradients."""

    log_weights: jax.Array
    first: jax.Array
    squares: tuple[Any, ...]


def uncertainty(learning_rate: float = 0.01, main_pinned: bool = False) -> Weighting:
    """Homoscedastic uncertainty: sum_k e^(-s_k) L_k / 2 + s_k / 2, hence w_k = e^(-s_k) / 2, s learned from 0.

    Its stationary point is e^s = L. The state holds s and Adam's moments; with `main_pinned` main's weight is 1 and its
    s stays where that holds, -log 2.

    Kendall, Gal and Cipolla 2018, arXiv 1705.07115, section 3.2. Deviations: s has an Adam of its own rather than the
    network's optimizer, at a `learning_rate` that is ours; in the slope of s a loss below 1e-8 counts as 1e-8, so that
    s is bounded. nash-mtl and TorchJD agree; LibMTL and mtan start at s = -0.5; SamsungLabs' weight is e^(-s).
    """

    def weigh(s: jax.Array) -> jax.Array:
        weights = jnp.exp(-s) / 2
        return weights.at[0].set(1.0) if main_pinned else weights

    def slope(s: jax.Array, losses: jax.Array) -> jax.Array:
        slopes = (1 - jnp.exp(-s) * losses) / 2
        return slopes.at[0].set(0.0) if main_pinned else slopes

    start = jnp.log(0.5) if main_pinned else 0.0
    return _learned(weigh, slope, start, learning_rate)


def imtl_l(learning_rate: float = 0.01) -> Weighting:
    """IMTL's loss balance: sum_k e^(s_k) L_k - s_k, hence w_k = e^(s_k), s learned from 0.

    Its stationary point is e^(-s) = L: it is twice `uncertainty` at -s. The state holds s and Adam's moments.

    Liu et al. 2021, Towards Impartial Multi-task Learning (ICLR), section 3.2. Deviations as for `uncertainty`. LibMTL
    and TorchJD agree, with the network's optimizer.
    """
    return _learned(jnp.exp, lambda s, losses: jnp.exp(s) * losses - 1, 0.0, learning_rate)


def _learned(weigh: Any, slope: Any, start: Any, learning_rate: float) -> Weighting:
    """Returns the weighting weigh(s), where Adam moves s [K] against slope(s, losses) after each step."""
    optimizer = optax.adam(learning_rate)

    def init(names: tuple[str, ...], trunk: Any) -> Learned:
        values = jnp.zeros(len(names)).at[0].set(start)
        return Learned(values, optimizer.init(values))

    def update(signals: Signals, state: Learned) -> tuple[Update, Learned]:
        slopes = slope(state.values, bounded_losses(signals)).astype(state.values.dtype)
        changes, moments = optimizer.update(slopes, state.optimizer)
        return Update(unless_alone(weigh(state.values))), Learned(state.values + changes, moments)

    return Weighting(init, update, frozenset({"losses"}))


def dwa(temperature: float = 2.0, window_steps: int = 100) -> Weighting:
    """Dynamic weight average: w = K softmax(r / temperature), r_k = Lbar_k(n - 1) / Lbar_k(n - 2); 1 at first.

    Lbar_k(n) is the mean of loss k over the n-th window of `window_steps` steps; in the first two windows w = 1. The
    state holds the count of steps, the sums of this window and the means of the last two.

    Liu, Johns and Davison 2019, arXiv 1803.10704, equation 7, whose windows are epochs: a step knows no epoch, set
    `window_steps` to the steps of one. Deviation: a loss below 1e-8 counts as 1e-8. LibMTL and TorchJD agree, given
    epochs; nash-mtl has sliding windows of 25 steps.
    """
    if not temperature > 0 or window_steps < 1:
        raise AuxjaxError(f"dwa needs temperature > 0 and window_steps >= 1, not {temperature!r} and {window_steps!r}")

    def init(names: tuple[str, ...], trunk: Any) -> Windows:
        return Windows(jnp.zeros((), jnp.int32), *(jnp.zeros(len(names)),) * 3)

    def update(signals: Signals, state: Windows) -> tuple[Update, Windows]:
        losses = bounded_losses(signals)
        rates = state.newer / jnp.maximum(state.older, SMALLEST_LOSS)
        weights = len(losses) * jax.nn.softmax(rates / temperature)
        weights = jnp.where(state.steps >= 2 * window_steps, weights, 1.0)
        total = (state.total + losses).astype(state.total.dtype)
        full = (state.steps + 1) % window_steps == 0
        moved = (jnp.zeros_like(total), total / window_steps, state.newer)
        kept = (total, state.newer, state.older)
        windows = (jnp.where(full, new, old) for new, old in zip(moved, kept, strict=True))
        return Update(weights), Windows(state.steps + 1, *windows)

    return Weighting(init, update, frozenset({"losses"}))


def rlw() -> Weighting:
    """Random loss weighting: w = softmax(z), z ~ N(0, I) anew in each step; no state. The weights sum to 1.

    Lin et al. 2022, arXiv 2111.10603, algorithm 2. LibMTL and TorchJD agree.
    """

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        if signals.key is None:
            raise AuxjaxError("rlw draws its weights: call update with Signals(key=...)")
        losses = bounded_losses(signals)
        return Update(jax.nn.softmax(jax.random.normal(signals.key, losses.shape, losses.dtype))), state

    return Weighting(no_state, update, frozenset({"losses"}))


def famo(learning_rate: float = 0.025, decay: float = 0.001) -> Weighting:
    """FAMO: w_k = c z_k / D_k with z = softmax(xi), D = L + 1e-8 and c = 1 / sum_k (z_k / D_k); no gradient is needed.

    After the step xi moves by Adam against J^T (log D - log D'), where J is the Jacobian of the softmax and D' is D at
    the losses after the step, with `decay` xi added to that slope: the losses fall at one rate. The weights sum to 1.
    The state holds xi, Adam's moments, and the losses before the step.

    Liu et al. 2023, arXiv 2306.03792, section 3; learning rate and decay as in LibMTL and TorchJD, which agree (the
    decay is 0.01 in the authors' famo.py, 0.001 in most of their scripts). The lower bounds of the losses are 0, and a
    negative loss counts as 0. The authors' code also clips the trunk's gradient to norm 1, which is the optimizer's
    work here.
    """
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.adam(learning_rate))

    def init(names: tuple[str, ...], trunk: Any) -> Logits:
        values = jnp.zeros(len(names))
        return Logits(values, optimizer.init(values), jnp.ones_like(values))

    def update(signals: Signals, state: Logits) -> tuple[Update, Logits]:
        losses = _above_zero(signals.losses)
        ratios = jax.nn.log_softmax(state.values) - jnp.log(losses)
        return Update(jax.nn.softmax(ratios)), state._replace(before=losses.astype(state.before.dtype))

    def finish(signals: Signals, state: Logits) -> Logits:
        falls = jnp.log(state.before) - jnp.log(_above_zero(signals.losses_after))
        shares = jax.nn.softmax(state.values)
        slopes = (shares * (falls - jnp.dot(shares, falls))).astype(state.values.dtype)
        changes, moments = optimizer.update(slopes, state.optimizer, state.values)
        return Logits(state.values + changes, moments, state.before)

    return Weighting(init, update, frozenset({"losses", "losses_after"}), finish)


def _above_zero(losses: jax.Array | None) -> jax.Array:
    if losses is None:
        raise AuxjaxError("famo reads the losses before and after the step: give Signals losses and losses_after")
    return jnp.maximum(losses, 0.0) + SMALLEST_LOSS


def excess_mtl(step_size: float = 0.01) -> Weighting:
    """ExcessMTL: w_k <- w_k exp(step_size E_k / E_k(first)), then scaled to sum to K; w starts at 1.

    E_k = g_k . g_k / sqrt(S_k + 1e-7) estimates how far loss k is above its minimum; S_k accumulates the elementwise
    squares of g_k, this step's too. The state holds log w, the first E_k, and S: K times the trunk in memory.

    He et al. 2024, arXiv 2402.02009, equations 6, 7 and 9; the step size is the default of their code and of LibMTL.
    As there the sum is K (the paper's is 1) and the first step's E is the reference (the paper's: the mean over three
    epochs). Deviations: a loss whose gradient is zero gets its reference once it is not. TorchJD's weights sum to 1,
    step size 1, and without a warm-up its first step already moves them.
    """

    def init(names: tuple[str, ...], trunk: Any) -> Risks:
        def zeros(leaf: Any) -> jax.Array:
            return jnp.zeros(jnp.shape(leaf), jnp.promote_types(jnp.result_type(leaf), jnp.float32))

        uniform = jnp.zeros(len(names)) - math.log(len(names))
        return Risks(uniform, jnp.zeros(len(names)), tuple(jax.tree.map(zeros, trunk) for _ in names))

    def update(signals: Signals, state: Risks) -> tuple[Update, Risks]:
        if signals.gradients is None:
            raise AuxjaxError("excess_mtl reads gradients: call update with Signals(gradients=...)")
        squares = tuple(
            jax.tree.map(lambda s, g: s + jnp.square(g.astype(s.dtype)), *pair)
            for pair in zip(state.squares, signals.gradients, strict=True)
        )
        pairs = zip(signals.gradients, squares, strict=True)
        risks = jnp.stack([_excess_risk(g, s) for g, s in pairs]).astype(state.first.dtype)
        first = jnp.where(state.first > 0, state.first, risks)
        # Equal ratios move nothing, so the first step leaves the weights at 1. Logarithms cannot run out of range.
        ratios = risks / jnp.maximum(first, SMALLEST_RISK)
        log_weights = jax.nn.log_softmax(state.log_weights + step_size * ratios)
        return Update(len(risks) * jnp.exp(log_weights)), Risks(log_weights, first, squares)

    return Weighting(init, update, frozenset({"gradients"}))


def _excess_risk(gradient: Any, squares: Any) -> jax.Array:
    terms = jax.tree.map(lambda g, s: jnp.sum(jnp.square(g.astype(s.dtype)) / jnp.sqrt(s + 1e-7)), gradient, squares)
    return sum(jax.tree.leaves(terms), start=jnp.zeros(()))


_SYMMETRIC = frozenset({"symmetric", "heads_symmetric"})
METHODS: dict[str, Method] = {
    "uncertainty": Method(
        uncertainty, "Kendall et al. 2018, arXiv 1705.07115, section 3.2", frozenset({"heads_symmetric"}),
        "TorchJD; nash-mtl; LibMTL, mtan (start at -0.5); SamsungLabs (weights twice as large)",
    ),
    "imtl_l": Method(imtl_l, "Liu et al. 2021, ICLR, section 3.2", _SYMMETRIC, "LibMTL; TorchJD"),
    "dwa": Method(
        dwa, "Liu et al. 2019, arXiv 1803.10704, equation 7", _SYMMETRIC | {"sum_k"},
        "LibMTL; TorchJD; nash-mtl (sliding windows of 25 steps)",
    ),
    "rlw": Method(rlw, "Lin et al. 2022, arXiv 2111.10603, algorithm 2", frozenset({"sum_one"}), "LibMTL; TorchJD"),
    "famo": Method(
        famo, "Liu et al. 2023, arXiv 2306.03792, section 3", _SYMMETRIC | {"scale_invariant", "sum_one"},
        "LibMTL; TorchJD; the authors' code (decay 0.01)",
    ),
    "excess_mtl": Method(
        excess_mtl, "He et al. 2024, arXiv 2402.02009, equations 6, 7 and 9", _SYMMETRIC | {"sum_k"},
        "LibMTL; TorchJD (sum 1, moves in the first step)",
    ),
}  # fmt: skip
