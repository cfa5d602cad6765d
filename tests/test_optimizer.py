"""Every optimizer against optax's own, and learning rates against their closed forms."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from auxjax import config as configs
from auxjax import optimizer
from auxjax.errors import AuxjaxError

TOTAL, EPOCH, BATCH = 100, 20, 8


def config(schedule: str = "constant", **changes: Any) -> Any:
    made = configs.base().optimizer
    made.learning_rate, made.schedule.name = 0.1, schedule
    made.update_from_flattened_dict(changes)
    return made


def params() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "model": {"kernel": draw(3, 4), "bias": draw(4)},
        "heads": {"aux1": {"kernel": draw(4, 2), "bias": draw(2)}},
    }


def run(transformation: Any, steps: int = 3, scale: float = 1.0) -> Any:
    """The updates of each step, the gradient a fixed function of the step."""
    tree = params()
    state, updates = transformation.init(tree), []
    for step in range(steps):
        grads = jax.tree.map(lambda p, step=step: scale * jnp.sin(3 * p + step), tree)
        update, state = transformation.update(grads, state, tree)
        tree = optax.apply_updates(tree, update)
        updates.append(update)
    return updates


def close(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-8)


def make(made: Any) -> Any:
    return optimizer.make(made, TOTAL, EPOCH, BATCH)


def matrices(tree: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, tree)


def l2(transformation: Any, decay: float = 0.01) -> Any:
    return optax.chain(optax.add_decayed_weights(decay, matrices), transformation)


RATE = optax.cosine_decay_schedule(0.1, TOTAL)
REFERENCES: dict[str, Any] = {
    "sgd": (lambda: l2(optax.sgd(RATE, momentum=0.9)), {}),
    "sgd nesterov": (lambda: l2(optax.sgd(RATE, momentum=0.9, nesterov=True)), {"nesterov": True}),
    "sgd plain": (lambda: l2(optax.sgd(RATE)), {"momentum": 0.0}),
    "adam": (lambda: l2(optax.adam(RATE)), {}),
    "adamw": (lambda: optax.adamw(RATE, weight_decay=0.01, mask=matrices), {}),
    "rmsprop": (lambda: l2(optax.rmsprop(RATE, decay=0.99, momentum=0.9)), {"b2": 0.99}),
    "lars": (
        lambda: optax.lars(RATE, 0.01, weight_decay_mask=matrices, trust_ratio_mask=matrices, momentum=0.9),
        {},
    ),
    "lamb": (lambda: optax.lamb(RATE, eps=1e-8, weight_decay=0.01, mask=matrices), {}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_an_optimizer_is_that_of_optax(name: str) -> None:
    reference, changes = REFERENCES[name]
    close(run(make(config("cosine", name=name.split()[0], weight_decay=0.01, **changes))), run(reference()))


def test_every_optimizer_has_a_reference_here() -> None:
    assert {name.split()[0] for name in REFERENCES} == set(optimizer.OPTIMIZERS)


def test_weight_decay_leaves_vectors_out() -> None:
    plain, decayed = (run(make(config(momentum=0.0, weight_decay=w)), steps=1)[0] for w in (0.0, 0.01))
    np.testing.assert_array_equal(plain["model"]["bias"], decayed["model"]["bias"])
    expected = plain["model"]["kernel"] - 0.1 * 0.01 * params()["model"]["kernel"]
    np.testing.assert_allclose(decayed["model"]["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_the_heads_factor_scales_the_heads_half_alone(name: str) -> None:
    plain = run(make(config(name=name)), steps=1)[0]
    scaled = run(make(config(name=name, heads_learning_rate_factor=0.25)), steps=1)[0]
    close(scaled["model"], plain["model"])
    close(scaled["heads"], jax.tree.map(lambda u: 0.25 * u, plain["heads"]))
    frozen = run(make(config(name=name, heads_learning_rate_factor=0.0)), steps=1)[0]
    assert all(not leaf.any() for leaf in jax.tree.leaves(frozen["heads"]))


def test_the_norm_is_clipped_over_both_halves() -> None:
    clipped = run(make(config(momentum=0.0, clip_norm=0.5)), steps=1, scale=100.0)[0]
    np.testing.assert_allclose(optax.tree.norm(clipped), 0.1 * 0.5, rtol=1e-5)
    close(run(make(config(clip_norm=1e6))), run(make(config())))


CLOSED_FORMS = {
    "constant": lambda p: 0.1,
    "cosine": lambda p: 0.01 + 0.09 * (1 + math.cos(math.pi * p)) / 2,
    "linear": lambda p: 0.1 + (0.01 - 0.1) * p,
    "step": lambda p: 0.1 * 0.5 ** math.floor(p / 0.3 + 1e-9),
    "exponential": lambda p: 0.1 * 0.5 ** (p / 0.3),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_schedule_is_its_closed_form(name: str) -> None:
    made = config(name, **{"schedule.floor": 0.01, "schedule.gamma": 0.5, "schedule.every_percent": 30.0})
    rate = jax.jit(optimizer.learning_rate(made, TOTAL, EPOCH, BATCH))
    for step in (0, 1, 29, 30, 50, 60, 99, 100):
        np.testing.assert_allclose(rate(step), CLOSED_FORMS[name](step / TOTAL), rtol=1e-4, err_msg=f"step {step}")


def test_every_schedule_has_a_closed_form_here() -> None:
    assert set(CLOSED_FORMS) == set(optimizer.SCHEDULES)


@pytest.mark.parametrize("unit", [{"steps": 10}, {"epochs": 0.5}, {"examples": 80}, {"percent": 10.0}])
@pytest.mark.parametrize("name", optimizer.SCHEDULES)
def test_warm_up_rises_from_zero_in_any_unit_and_ends_where_the_schedule_does(name: str, unit: dict[str, Any]) -> None:
    made = config(name, **{f"schedule.warmup_{key}": value for key, value in unit.items()})
    rate = optimizer.learning_rate(made, TOTAL, EPOCH, BATCH)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 5, 9)], [0, 0.01, 0.05, 0.09], rtol=1e-5)
    middle = {"cosine": 0.05, "linear": 0.05, "constant": 0.1, "step": 0.01, "exponential": 0.1 * 0.1 ** (55 / 30)}
    np.testing.assert_allclose(rate(55), middle[name], rtol=1e-5)
    if name in ("cosine", "linear"):
        np.testing.assert_allclose([rate(10), rate(100)], [0.1, 0.0], atol=1e-8)
    if name in ("step", "exponential"):  # they count from the start of training
        without = optimizer.learning_rate(config(name), TOTAL, EPOCH, BATCH)
        np.testing.assert_allclose([rate(s) for s in (10, 35, 80)], [without(s) for s in (10, 35, 80)], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'"),
        ({"schedule.name": "cosin"}, "unknown learning rate schedule 'cosin'; did you mean 'cosine'"),
    ],
)
def test_an_unknown_name_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AuxjaxError, match=message):
        make(config(**changes))
