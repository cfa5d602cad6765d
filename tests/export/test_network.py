"""What is exported is the bare model, and an export that gives something else is refused."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest

import auxjax
from auxjax.errors import AuxjaxError
from auxjax.export import bare_network
from auxjax.export.network import check_outputs, check_size
from tests.export.networks import make
from tests.small import SmallNet, heads


def test_an_array_of_a_head_is_named() -> None:
    attached = auxjax.attach(SmallNet(), heads())
    shape = (8, 8, 3)
    variables = jax.jit(attached.init)(jax.random.key(0), np.zeros((1, *shape), np.float32))
    with pytest.raises(AuxjaxError, match=r"batch_stats/heads/aux1/bn/mean is .*expected absent"):
        bare_network(attached.model, variables, shape)
    stripped = auxjax.strip(variables)
    stripped["params"]["conv_1"]["bias"] = np.full(8, np.nan, np.float32)
    with pytest.raises(AuxjaxError, match="not finite"):
        bare_network(attached.model, stripped, shape)


def test_outputs_are_compared_at_every_batch_size() -> None:
    network = make(SmallNet(), (8, 8, 3))
    assert [len(x) for x, _ in network.examples] == [1, 3]
    expected = {len(x): y for x, y in network.examples}
    check_outputs("it", network, lambda x: expected[len(x)] * (1 + 1e-5))
    with pytest.raises(AuxjaxError, match=r"it differs .* batch size 1"):
        check_outputs("it", network, lambda x: expected[len(x)] * (1 + 1e-3))
    with pytest.raises(AuxjaxError, match=r"it differs .* batch size 3"):
        check_outputs("it", network, lambda x: expected[len(x)] * (np.nan if len(x) == 3 else 1))
    with pytest.raises(AuxjaxError, match=r"shape \[\[1, 5\]\], expected .* batch size 3"):
        check_outputs("it", network, lambda x: expected[len(x)][:1])


class Positions(nn.Module):
    """Adds fixed numbers, which are no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(2, name="logits")((x + np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)).mean((1, 2)))


def test_a_program_holds_the_bare_models_numbers_and_no_more() -> None:
    check_size("it", make(Positions(), (8, 8, 1)))
    network = make(SmallNet(), (8, 8, 3))
    check_size("it", network)
    head = np.ones((5, 2), np.float32)
    more = network._replace(function=lambda variables, x: network.function(variables, x) @ head)
    with pytest.raises(AuxjaxError, match="it would hold 927 numbers, the bare model has 917"):
        check_size("it", more)
