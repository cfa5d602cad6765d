"""Weightings of weightings: identities, the step at which they switch, states that can be scanned and vmapped."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.weighting import METHODS, choose
from auxjax.weighting.compose import chain, ema, every, gives_direction, warm_up
from auxjax.weighting.loss_based import dwa, excess_mtl, famo, rlw, uncertainty
from auxjax.weighting.normalize import CONVENTIONS, normalized
from auxjax.weighting.protocol import CONSTANT, HeldOut, Signals, Update, Weighting, combine, gramian_of, no_state
from auxjax.weighting.registry import AROUND
from auxjax.weighting.scalarized import gls, scale_invariant
from tests.weighting.steps import Array, losses_of, rolled

STEPS, K = 20, 3
LOSSES, AFTER = losses_of(STEPS, K), losses_of(STEPS, K, seed=1)
GRADIENTS = np.random.default_rng(2).normal(size=(STEPS, K, 4))
NAMES = ("main", "aux1", "aux2")


def fixed(*weights: float) -> Weighting:
    return Weighting(no_state, lambda signals, state: (Update(jnp.asarray(weights)), state))


def counting() -> Weighting:
    """Its weights are how often it has been used, and its state counts that and its finished steps."""

    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        return Update(jnp.full(K, state[0] + 1.0)), (state[0] + 1, state[1])

    zero = jnp.zeros((), jnp.int32)
    return Weighting(lambda names, trunk: (zero, zero), update, frozenset(), lambda signals, s: (s[0], s[1] + 1))


def first_gradient(signals: Signals, state: Any) -> tuple[Update, Any]:
    return Update(jnp.asarray([5.0, 0.0, 0.0]), combine(jnp.asarray([5.0]), (signals.gradients or ())[:1])), state


DIRECTED = Weighting(no_state, first_gradient, frozenset({"gradients"}))


def signals_at(step: int, **more: Any) -> Signals:
    gradients = tuple({"a": g[:3], "b": g[3:]} for g in jnp.asarray(GRADIENTS[step], jnp.float32))
    known: dict[str, Any] = {
        "losses": jnp.asarray(LOSSES[step], jnp.float32), "gradients": gradients, "gramian": gramian_of(gradients),
    }  # fmt: skip
    key = jax.random.fold_in(jax.random.key(0), step)
    return Signals(jnp.int32(step), jnp.float32(step / STEPS), key, **(known | more))


def run(weighting: Weighting) -> Array:
    return rolled(weighting, LOSSES, AFTER, GRADIENTS)[0]


COMPOSED = {
    "chain": chain(fixed(1.0, 0.3, 0.2), famo(), rlw()),
    "warm_up": warm_up(uncertainty(0.1), dwa(window_steps=3), 7),
    "warm_up into a direction": warm_up(gls(), DIRECTED, 7),
    "all the others": normalized(every(ema(chain(CONSTANT, famo()), 0.5), 3), "main"),
}


def test_identities() -> None:
    inner, plain = famo(), run(famo())
    for same in (chain(inner, CONSTANT), ema(inner, 0.0), every(inner, 1), normalized(inner, "native")):
        assert np.array_equal(run(same), plain)
    assert np.array_equal(run(warm_up(CONSTANT, inner, 0)), plain)
    assert np.array_equal(run(warm_up(inner, CONSTANT, STEPS)), plain)


def test_a_constant_one_before_another_changes_nothing() -> None:
    assert np.array_equal(run(chain(CONSTANT, excess_mtl(0.3))), run(excess_mtl(0.3)))


def test_a_chain_is_associative() -> None:
    a, b, c = fixed(1.0, 0.3, 2.0), famo(), dwa(window_steps=4)
    row = run(chain(a, b, c))
    for grouped in (chain(a, chain(b, c)), chain(chain(a, b), c)):
        assert np.allclose(run(grouped), row, rtol=1e-12)


def test_a_later_weighting_of_a_chain_sees_the_weighted_losses() -> None:
    factors = np.array([1.0, 0.3, 2.0])
    scaled = rolled(famo(), LOSSES * factors, AFTER * factors)[0]
    assert np.allclose(run(chain(fixed(*factors), famo())), scaled * factors, rtol=1e-9)
    assert np.allclose(run(chain(fixed(*factors), scale_invariant())), 1 / LOSSES, rtol=1e-9)
    expected = rolled(excess_mtl(0.3), LOSSES, gradients=GRADIENTS * factors[:, None])[0] * factors
    assert np.allclose(run(chain(fixed(*factors), excess_mtl(0.3))), expected, rtol=1e-9)


def test_a_chain_scales_every_signal_and_keeps_the_held_out_loss() -> None:
    factors = jnp.asarray([1.0, 0.5, 4.0])
    seen: list[Signals] = []

    def look(signals: Signals, state: Any) -> tuple[Update, Any]:
        seen.append(signals)
        return Update(jnp.ones(K)), state

    held_out = HeldOut(lambda d: (jnp.float32(7), d), lambda w, v: (w, v), jnp.float32(0.1))
    looking = Weighting(no_state, look, finish=lambda signals, state: look(signals, state)[1])
    chained = chain(fixed(1.0, 0.5, 4.0), looking)
    signals = signals_at(3, held_out=held_out)
    update, state = chained.update(signals, chained.init(NAMES, None))
    assert chained.finish is not None
    chained.finish(signals._replace(losses_after=jnp.ones(K)), state)
    assert np.allclose(update.weights, factors) and len(seen) == 2
    for found in seen:
        assert found.losses is not None and found.gradients is not None and found.gramian is not None
        assert signals.losses is not None and np.allclose(found.losses, signals.losses * factors)
        assert np.allclose(found.gramian, gramian_of(found.gradients), rtol=1e-5)
        assert found.held_out is not None and np.allclose(found.held_out.hessian(jnp.ones(K), 2)[0], factors)
        assert found.held_out.gradient(1)[0] == 7
        assert found.key is not None and found.key != signals.key
    assert seen[0].losses_after is None and np.allclose(np.asarray(seen[1].losses_after), factors)


def test_random_weightings_of_a_chain_draw_apart() -> None:
    draws = run(rlw())
    assert np.abs(run(chain(rlw(), rlw())) - draws**2).min(axis=0).max() > 1e-6


def test_a_direction_comes_from_the_last_of_a_chain_and_of_nothing_that_needs_weights() -> None:
    signals = signals_at(0)
    chained = chain(fixed(0.5, 1.0, 1.0), DIRECTED)
    update, _ = chained.update(signals, chained.init(NAMES, None))
    assert signals.gradients is not None and np.allclose(update.direction["a"], 2.5 * signals.gradients[0]["a"])
    assert np.allclose(update.weights, [2.5, 0, 0])
    for refusing in (chain(DIRECTED, CONSTANT), ema(DIRECTED), every(DIRECTED, 2)):
        with pytest.raises(AuxjaxError, match="gives a direction"):
            refusing.update(signals, refusing.init(NAMES, None))


def test_a_warm_up_switches_at_its_step_and_moves_only_what_it_uses() -> None:
    weights, state = rolled(warm_up(counting(), chain(counting(), fixed(1, 10, 100)), 7), LOSSES)
    expected = [[n + 1] * 3 for n in range(7)] + [[n + 1, 10 * (n + 1), 100 * (n + 1)] for n in range(13)]
    assert np.array_equal(weights, expected)
    assert [int(count) for count in jax.tree.leaves((state.first, state.then.states[0]))] == [7, 7, 13, 13]


def test_a_warm_up_into_a_direction_starts_with_the_weighted_sum() -> None:
    switched = warm_up(fixed(1.0, 2.0, 3.0), DIRECTED, 1)
    state = switched.init(NAMES, None)
    for step, weights in ((0, [1.0, 2.0, 3.0]), (1, [5.0, 0.0, 0.0])):
        signals = signals_at(step)
        update, state = switched.update(signals, state)
        expected = combine(jnp.asarray(weights), signals.gradients or ())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), update.direction, expected)
        assert np.allclose(update.weights, weights)


def test_an_average_starts_at_the_first_weights_and_is_that_of_torchjd() -> None:
    drawn = run(rlw())
    expected = [drawn[0]]
    for weights in drawn[1:]:
        expected.append(0.8 * expected[-1] + 0.2 * weights)
    assert np.allclose(run(ema(rlw(), 0.8)), expected, rtol=1e-12)
    torch = pytest.importorskip("torch")
    aggregation = pytest.importorskip("torchjd.aggregation")
    inner = iter(torch.tensor(drawn))
    peer = aggregation.CRMOGMWeighting(lambda matrix: next(inner), alpha=0.8)
    assert np.allclose([np.asarray(peer(torch.ones(K, 2))) for _ in drawn], expected, rtol=1e-12)


def test_held_weights_are_computed_at_multiples_and_when_first_used() -> None:
    weights, state = rolled(every(counting(), 6), LOSSES)
    assert np.array_equal(weights[:, 0], [1] * 6 + [2] * 6 + [3] * 6 + [4] * 2)
    assert [int(count) for count in state.inner] == [4, 4]
    late = rolled(warm_up(fixed(9, 9, 9), every(counting(), 6), 8), LOSSES)[0]
    assert np.array_equal(late[:, 0], [9] * 8 + [1] * 4 + [2] * 6 + [3] * 2)


@pytest.mark.parametrize(
    ("convention", "native", "expected"),
    [
        ("native", (0.2, 0.3, 0.1), (0.2, 0.3, 0.1)),
        ("main", (0.2, 0.3, 0.1), (1.0, 1.5, 0.5)),
        ("main", (0.0, 0.3, 0.3), (0.0, 15.0, 15.0)),
        ("main", (0.02, 0.28, 0.3), (1.0, 14.0, 15.0)),
        ("main", (-1.0, 0.5, 0.5), (-15.0, 7.5, 7.5)),
        ("sum_one", (0.2, 0.6, 0.2), (0.2, 0.6, 0.2)),
        ("sum_one", (2.0, 1.0, 1.0), (0.5, 0.25, 0.25)),
        ("sum_one", (1.0, -2.0, 1.0), (2.5, -5.0, 2.5)),
        ("sum_k", (2.0, 1.0, 1.0), (1.5, 0.75, 0.75)),
        *((name, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)) for name in CONVENTIONS),
    ],
)
def test_a_convention_divides_weights_and_direction_by_one_positive_number(
    convention: str, native: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    def update(signals: Signals, state: Any) -> tuple[Update, Any]:
        return Update(jnp.asarray(native), {"a": jnp.asarray(native[:2])}), state

    scaled = normalized(Weighting(no_state, update), convention)
    found, _ = scaled.update(signals_at(0), scaled.init(NAMES, None))
    assert np.allclose(found.weights, expected, rtol=1e-6)
    assert np.allclose(found.direction["a"], expected[:2], rtol=1e-6)


def test_a_constant_that_does_not_know_k_is_normalized_too() -> None:
    for convention, value in (("main", 1.0), ("sum_one", 1 / K), ("sum_k", 1.0)):
        assert np.allclose(run(normalized(CONSTANT, convention)), value)


@pytest.mark.parametrize("name", COMPOSED)
def test_a_scan_equals_a_loop_and_the_state_keeps_its_form(name: str) -> None:
    weighting = COMPOSED[name]
    trunk = {"a": jnp.zeros(3), "b": jnp.zeros(1)}
    start = weighting.init(NAMES, trunk)
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(signals_at(step) for step in range(STEPS)))
    after = jnp.asarray(AFTER, jnp.float32)

    def one_step(state: Any, at: tuple[Signals, jax.Array]) -> tuple[Any, Update]:
        update, state = weighting.update(at[0], state)
        if weighting.finish:
            state = weighting.finish(at[0]._replace(losses_after=at[1]), state)
        return state, update

    last, scanned = jax.jit(lambda s: jax.lax.scan(one_step, s, (batch, after)))(start)
    jitted, state, looped = jax.jit(one_step), start, []
    for step in range(STEPS):
        state, update = jitted(state, (signals_at(step), after[step]))
        looped.append(update)
    forms = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (start, state, last)]
    assert forms[0] == forms[1] == forms[2]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), scanned, stacked)
    vmapped, _ = jax.jit(jax.vmap(one_step, in_axes=(None, 0)))(start, (batch, after))
    singly = jax.tree.map(lambda *x: jnp.stack(x), *(jitted(start, (signals_at(n), after[n]))[0] for n in range(STEPS)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), vmapped, singly)


def test_needs_are_those_of_all_parts_and_finish_is_there_where_a_part_has_one() -> None:
    for both in (chain(famo(), excess_mtl()), warm_up(famo(), excess_mtl(), 3)):
        assert both.needs == {"losses", "losses_after", "gradients"} and both.finish is not None
    assert ema(gls()).needs == {"losses"} and ema(gls()).finish is None and every(famo(), 2).finish is not None


def test_what_cannot_be_composed_is_named() -> None:
    with pytest.raises(AuxjaxError, match="did you mean 'sum_one'"):
        normalized(CONSTANT, "sum_on")
    for wrong in (lambda: chain(), lambda: ema(gls(), 1.0), lambda: every(gls(), 0)):
        with pytest.raises(AuxjaxError, match="at least"):
            wrong()
    lone = warm_up(Weighting(no_state, lambda s, state: (Update(jnp.ones(K), jnp.ones(2)), state)), CONSTANT, 1)
    with pytest.raises(AuxjaxError, match="warm_up needs gradients"):
        lone.update(signals_at(0, gradients=None), lone.init(NAMES, None))


@pytest.mark.parametrize("name", METHODS)
def test_what_goes_around_a_method_has_no_parameter_of_its_name_and_is_refused_where_it_cannot_act(name: str) -> None:
    assert not set(inspect.signature(METHODS[name].make).parameters) & set(AROUND)
    if gives_direction(METHODS[name].make()):
        with pytest.raises(AuxjaxError, match=f"every_steps of weighting '{name}' must be left out: it gives a dir"):
            choose({"name": name, "every_steps": 2})
    else:
        assert choose({"name": name, "every_steps": 2}).weighting.rest is not None


def test_methods_that_give_a_direction_are_those_that_change_gradients_and_not_weights() -> None:
    found = {name for name, method in METHODS.items() if gives_direction(method.make())}
    assert {"sign_gate", "grad_drop", "mt_adam", "attittud"} <= found
    assert not found & {"pcgrad", "gcs", "famo", "exp3", "auxi_learn"}
