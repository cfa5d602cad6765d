"""Folding: same outputs, less work; a norm whose input somebody else reads, or that is no affine map, is not folded."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax import ops
from auxjax.errors import AuxjaxError
from auxjax.export import Network, fold
from auxjax.export.network import relative_error
from tests.export.networks import make
from tests.foreign_model import StrangersNet
from tests.small import SmallNet

SHAPE = (6, 6, 3)


class Kinds(nn.Module):
    """A norm of each kind: `reader` says what else reads the first convolution, `norm` how the first one normalises."""

    reader: str = "nobody"
    axis: int = -1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Any:
        conv = nn.Conv(6, (3, 3), use_bias=False, name="conv")
        y = x = conv(x)
        x = nn.BatchNorm(use_running_average=not train, axis=self.axis, name="bn")(x)
        if self.reader == "sum":
            x = x + y
        if self.reader == "itself":
            x = x + conv(jnp.ones((1, 6, 6, 3)))
        x = ops.BatchNorm(relu=True, name="pre_activation")(nn.tanh(x), use_running_average=not train)
        x = nn.BatchNorm(use_running_average=not train, use_scale=False, name="bn_dense")(
            nn.Dense(4, name="dense")(x.mean((1, 2)))
        )
        return x if self.reader != "output" else (x, y)


class Stacked(nn.Module):
    """A scanned layer with BatchNorm, whose arrays are stacked."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
                x = nn.Dense(x.shape[-1], name="dense")(x)
                return nn.tanh(nn.BatchNorm(use_running_average=not train, name="bn")(x)), None

        axes: Any = {"params": 0, "batch_stats": 0}
        layers = nn.scan(Layer, variable_axes=axes, split_rngs={"params": True}, length=3)
        return layers(name="layers")(x.mean((1, 2)), None)[0]


class Normalised(nn.Module):
    """A dense layer whose kernel is divided by its norm, so that a factor in it is lost."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.WeightNorm(nn.Dense(4, name="dense"), name="weight_norm")(x.mean((1, 2)))
        return nn.BatchNorm(use_running_average=not train, name="bn")(x)


def same(network: Network, folded: Network) -> None:
    """Compares on a batch that the folding has not seen."""
    x = jax.random.normal(jax.random.key(7), (2, *network.image_shape))
    expected = jax.jit(network.function)(network.variables, x)
    actual = jax.jit(folded.function)(folded.variables, x)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert relative_error(a, b) < 1e-4


def test_the_norms_of_a_strangers_network_vanish_into_convolutions_with_a_bias() -> None:
    network = make(SmallNet(), (8, 8, 3))
    before = jax.tree.map(np.copy, dict(network.variables))
    folded = fold(network)
    assert set(folded.variables) == {"params"}
    assert set(folded.variables["params"]) == {"conv_1", "conv_2", "logits"}
    jax.tree.map(np.testing.assert_array_equal, network.variables, before)
    same(network, folded)


def test_googlenet_folds_whole_and_costs_less(googlenets: tuple[Network, Network]) -> None:
    network, folded = googlenets
    names = {path[-2:] for path in _paths(folded.variables) if "bn" in path}
    assert names == {("bn", "bias")}
    costs = []
    for net in (network, folded):
        compiled = jax.jit(net.function).lower(net.variables, network.examples[0][0]).compile()
        analysis: Any = compiled.cost_analysis()
        costs.append((analysis["flops"], analysis["bytes accessed"]))
    assert costs[1][0] < costs[0][0] and costs[1][1] < costs[0][1]


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({}, {"bias"}),
        ({"reader": "sum"}, {"scale", "bias"}),
        ({"reader": "itself"}, {"scale", "bias"}),
        ({"reader": "output"}, {"scale", "bias"}),
        ({"axis": 1}, {"scale", "bias", "mean", "var"}),
    ],
    ids=["nobody", "sum", "itself", "output", "axis"],
)
def test_a_norm_is_folded_only_where_nobody_else_reads_the_convolution(fields: dict[str, Any], left: set[str]) -> None:
    network = make(Kinds(**fields), SHAPE)
    folded = fold(network)
    found: dict[str, set[str]] = {}
    for path in _paths(folded.variables):
        found.setdefault(path[-2], set()).add(path[-1])
    assert found["pre_activation"] == {"scale", "bias"}
    assert "bn_dense" not in found and found["dense"] == {"kernel", "bias"}
    assert found["bn"] == left
    same(network, folded)


def test_norms_inside_remat_and_jit_are_folded_and_stacked_ones_are_left() -> None:
    network = make(StrangersNet(), (8, 8, 3))
    folded = fold(network)
    assert "batch_stats" not in folded.variables
    assert not any(path[-1] == "scale" for path in _paths(folded.variables) if "BatchNorm" in path[-2])
    stacked = make(Stacked(), SHAPE)
    jax.tree.map(np.testing.assert_array_equal, fold(stacked).variables, dict(stacked.variables))


def test_a_fold_that_changes_the_outputs_is_refused() -> None:
    with pytest.raises(AuxjaxError, match=r"folded network differs from the network by .* at batch size 1"):
        fold(make(Normalised(), SHAPE))


def test_bfloat16_keeps_its_dtypes() -> None:
    class Half(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            types: Any = {"dtype": jnp.bfloat16}
            x = ops.Conv(8, (3, 3), use_bias=False, **types, name="conv")(x)
            return ops.BatchNorm(relu=True, **types, name="bn")(x, use_running_average=not train)

    network = make(Half(), SHAPE)
    folded = fold(network)
    x = network.examples[0][0]
    output = jax.eval_shape(folded.function, folded.variables, x)
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(folded.variables)} == {np.dtype(np.float32)}


def _paths(variables: Any) -> list[tuple[str, ...]]:
    return [tuple(key.key for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]]
