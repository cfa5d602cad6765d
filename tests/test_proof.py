"""The strip proof holds for a network trained with heads, and fails for every way of leaving one in."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import auxjax
from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.proof import check_bare, prove_stripped
from auxjax.step import train_step
from tests import small

INPUTS = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))


@pytest.fixture(scope="module")
def trained() -> tuple[Attached, Any]:
    state, _ = jax.jit(train_step)(small.state(small.program(small.heads())), small.batch())
    return state.program.attached, state.variables


def test_a_trained_network_is_proven(trained: Any) -> None:
    attached, variables = trained
    prove_stripped(attached, variables, auxjax.strip(variables), INPUTS)


@pytest.mark.parametrize("collection", ["params", "batch_stats"])
def test_a_head_left_in_a_collection_fails(trained: Any, collection: str) -> None:
    attached, variables = trained
    stripped = auxjax.strip(variables)
    stripped[collection] = stripped[collection] | {"aux1": variables[collection]["heads"]["aux1"]}
    with pytest.raises(AuxjaxError, match=f"{collection}/aux1/.* is float32.*expected absent"):
        prove_stripped(attached, variables, stripped, INPUTS)


def test_a_head_left_in_the_program_fails(trained: Any) -> None:
    class Leaky(Attached):
        """Adds a head's output, times zero, to main's: the outputs are the same, the program is not."""

        def apply(self, variables: Any, *inputs: Any, train: bool, **kwargs: Any) -> Any:
            outputs = super().apply(variables, *inputs, train=train, heads=["aux1"], **kwargs)
            return {"main": outputs["main"] + 0.0 * outputs["aux1"]}

    attached, variables = trained
    with pytest.raises(AuxjaxError, match="another program"):
        prove_stripped(Leaky(attached.model, attached.heads), variables, auxjax.strip(variables), INPUTS)


def test_changed_values_fail(trained: Any) -> None:
    attached, variables = trained
    stripped = jax.tree.map(lambda x: x + 1e-6, auxjax.strip(variables))
    with pytest.raises(AuxjaxError, match="outputs differ"):
        prove_stripped(attached, variables, stripped, INPUTS)


def test_variables_of_another_model_name_the_first_difference(trained: Any) -> None:
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            return nn.Dense(7, name="logits")(x.reshape(x.shape[0], -1))

    with pytest.raises(AuxjaxError, match=r"strip proof failed.*conv_1.*absent|bn_1.*absent"):
        check_bare(Other(), auxjax.strip(trained[1]), jnp.zeros((1, 8, 8, 3)))
