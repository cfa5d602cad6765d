"""Contracts 3 and 5: every loss stands alone, and one pure step trains."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from auxjax.errors import AuxjaxError
from auxjax.step import create_state, eval_step, train_step
from auxjax.weighting.protocol import CONSTANT
from tests import small

STEP = jax.jit(train_step)


def close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


def test_the_step_is_the_hand_written_sum_of_losses() -> None:
    """alpha L_main + sum beta_i L_i with each loss over its own mask, one SGD step, written out with optax alone."""
    program = small.program(small.heads(), optimizer=optax.sgd(0.1))
    before, batch = small.state(program), small.batch()

    def loss(params: Any) -> Any:
        outputs, updates = program.attached.apply(
            {"params": params, **before.statistics}, batch["image"], train=True, rngs={"dropout": jax.random.key(9)},
            mutable=["batch_stats"],
        )  # fmt: skip
        one_hot = jax.nn.one_hot(batch["label"], small.CLASSES)
        smooth = 0.9 * one_hot + 0.1 / small.CLASSES
        parts = []
        for name, target, mask in (("main", one_hot, "mask"), ("aux1", one_hot, "mask"), ("aux2", smooth, "aux2_mask")):
            each = -(target * jax.nn.log_softmax(outputs[name])).sum(-1)
            parts.append((each * batch[mask]).sum() / batch[mask].sum())
        return parts[0] + 0.3 * parts[1] + 0.3 * parts[2], (parts, updates)

    (total, (parts, updates)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(before.params)
    after, metrics = STEP(before, batch)
    close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads))
    close(after.statistics, updates)
    close([metrics[f"loss/{n}"] for n in ("main", "aux1", "aux2", "total")], [*parts, total])
    close([metrics[f"weighted/{n}"] for n in ("main", "aux1", "aux2")], [parts[0], 0.3 * parts[1], 0.3 * parts[2]])
    assert int(after.step) == 1


def test_heads_of_weight_zero_leave_plain_training_bit_for_bit() -> None:
    plain, zero = small.program({}, dropout_rate=0.5), small.program(small.heads(0.0), dropout_rate=0.5)
    step = jax.jit(train_step, compiler_options=small.AS_SHIPPED)
    a, b = small.state(plain), small.state(zero)
    for seed in range(3):
        a, metrics_a = step(a, small.batch(seed=seed))
        b, metrics_b = step(b, small.batch(seed=seed))
    for collection in ("params", "statistics"):
        plain_half, zero_half = getattr(a, collection), getattr(b, collection)
        halves = (plain_half["model"], zero_half["model"]) if collection == "params" else (
            plain_half["batch_stats"]["model"], zero_half["batch_stats"]["model"])  # fmt: skip
        for x, y in zip(*map(jax.tree.leaves, halves), strict=True):
            np.testing.assert_array_equal(x, y)
    assert float(metrics_a["loss/total"]) == float(metrics_b["loss/total"])
    assert zero.objectives.keys() == {"main"}


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """Without BatchNorm's batch statistics (training does not use the averages) the two only differ by rounding."""
    whole = small.program({}, optimizer=optax.sgd(0.1))
    pieces = small.program({}, optimizer=optax.sgd(0.1), accumulate=4)
    batch = small.batch(16)
    # The same example in every microbatch position makes the microbatch statistics those of the whole batch.
    batch["image"] = jnp.repeat(batch["image"][:4], 4, axis=0)
    a, metrics_a = STEP(small.state(whole), batch)
    b, metrics_b = STEP(small.state(pieces), batch)
    close(a.params, b.params, 1e-5)
    close(metrics_a, metrics_b, 1e-5)


def test_accumulation_refuses_a_weighting_that_needs_the_losses() -> None:
    weighting = CONSTANT._replace(needs=frozenset({"losses"}))
    program = small.program({}, accumulate=2)._replace(weighting=weighting)
    with pytest.raises(AuxjaxError, match="accumulate=2"):
        create_state(program, small.state(small.program({})).variables, jax.random.key(0))


def test_the_weights_follow_their_schedule_inside_jit() -> None:
    program = small.program(small.heads({"name": "linear_decay", "start": 0.5, "floor": 0.1}))
    state = small.state(program)
    for step, expected in ((0, 0.5), (8, 0.3), (19, 0.1)):
        _, metrics = STEP(state.replace(step=jnp.asarray(step, jnp.int32)), small.batch())
        close([metrics["weight/aux1"], metrics["weight/main"]], [expected, 1.0])


def test_an_empty_mask_gives_zero_loss_and_no_nan() -> None:
    program = small.program(small.heads())
    batch = small.batch() | {"aux2_mask": jnp.zeros(16)}
    after, metrics = STEP(small.state(program), batch)
    assert float(metrics["loss/aux2"]) == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_ema_follows_the_parameters_and_is_what_is_evaluated() -> None:
    program = small.program(small.heads(), ema_decay=0.9)
    before = small.state(program)
    after, _ = STEP(before, small.batch())
    close(after.ema_params, jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, before.params, after.params))
    assert after.variables["params"] is after.ema_params


def test_evaluation_counts_every_unmasked_example_once() -> None:
    program = small.program(small.heads())
    state, batch = small.state(program), small.batch()
    sums = jax.jit(eval_step)(state, batch)
    logits = program.attached.apply(state.variables, batch["image"], train=False)["main"]
    right = (logits.argmax(-1) == batch["label"]) * batch["mask"]
    assert float(sums["main"]["correct"]) == float(right.sum())
    assert float(sums["main"]["count"]) == float(batch["mask"].sum())
    assert float(sums["aux2"]["count"]) == float(batch["aux2_mask"].sum())


def test_steps_repeat_bit_for_bit_and_random_bits_come_from_the_step() -> None:
    program = small.program(small.heads(), dropout_rate=0.5)
    state, batch = small.state(program), small.batch()
    a, b = STEP(state, batch)[1], STEP(state, batch)[1]
    later = STEP(state.replace(step=state.step + 1), batch)[1]
    assert float(a["loss/main"]) == float(b["loss/main"]) != float(later["loss/main"])
