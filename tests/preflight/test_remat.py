"""What is computed again in the backward pass changes no gradient, in any kind of pass, taps and heads included."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from auxjax import flops
from auxjax.gradients import Pass
from auxjax.head_gradients import trunk_of
from auxjax.state import REMAT, Program
from auxjax.step import backward, create_state
from auxjax.weighting.protocol import CONSTANT
from tests import small

LOOKS = CONSTANT._replace(needs=frozenset({"gramian"}))
PASSES: dict[str, dict[str, Any]] = {
    "weighted": {}, "accumulated": {"accumulate": 2}, "by head": {"weighting": LOOKS},
    "taps": {"weighting": LOOKS, "trunk": "taps"},
}  # fmt: skip


def program_of(kind: str, remat: str) -> Program:
    program = small.program(small.heads(), dropout_rate=0.2, optimizer=optax.sgd(0.1))
    return program._replace(**PASSES[kind], remat=remat)


@functools.cache
def variables() -> Any:
    program = program_of("weighted", "none")
    return jax.jit(program.attached.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@functools.cache
def passed(kind: str, remat: str) -> Pass:
    program, batch = program_of(kind, remat), small.batch()
    state = create_state(program, variables(), jax.random.key(1), trunk_of(program, variables(), batch))
    found: Pass = jax.jit(lambda s, b: backward(program)(s, b, s.key, None))(state, batch)
    return found


IN_CI = (("by head", "full"),)
REST = tuple((kind, remat) for kind in PASSES for remat in REMAT if remat != "none" and (kind, remat) not in IN_CI)


@pytest.mark.parametrize(
    ("kind", "remat"), [*IN_CI, *(pytest.param(*pair, marks=pytest.mark.slow_study) for pair in REST)]
)
def test_gradients_and_statistics_are_those_without(kind: str, remat: str) -> None:
    expected, found = passed(kind, "none"), passed(kind, remat)
    for e, f in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-5 * max(1.0, float(np.abs(e).max())))


def test_full_computes_products_again_and_dots_does_not() -> None:
    def work(remat: str) -> float:
        program = program_of("weighted", remat)
        image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
        variables = jax.eval_shape(lambda x: program.attached.init(jax.random.key(0), x), image)
        state = jax.eval_shape(lambda v: create_state(program, v, jax.random.key(0)), variables)
        batch = jax.eval_shape(small.batch)
        return sum(flops.count(lambda s, b: backward(program)(s, b, s.key, None), state, batch).values())

    assert work("dots") == work("none") < work("full")
