"""FLOPs against published multiply-adds and against networks counted by hand."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from auxjax import flops, models
from auxjax.ops import Conv
from tests.torch_models import import_torchvision

X = jax.ShapeDtypeStruct((2, 8), jnp.float32)


def of_module(module: nn.Module, x: jax.ShapeDtypeStruct = X, **kwargs: Any) -> dict[str, float]:
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **kwargs), x)
    return flops.count(lambda v, x: module.apply(v, x, **kwargs), variables, x)


class Block(nn.Module):
    """8 to 8 features, twice; the second in a method of its own."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nn.relu(nn.Dense(8, name="first")(x)))

    @nn.compact
    def second(self, x: jax.Array) -> jax.Array:
        return nn.Dense(8, name="second")(x)


class Step(nn.Module):
    """Block as a layer of a scan."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return Block(name="block")(x), None


class Lifted(nn.Module):
    """Blocks in every wrapping of Linen's, each two products of 2 x 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = Block(name="shared")
        x = shared(shared(x))
        x = nn.remat(Block)(name="remat")(x)
        x = nn.jit(Block)(name="jit")(x)
        x = nn.vmap(Block, variable_axes={"params": None}, split_rngs={"params": False})(name="vmap")(x)
        scan = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(name="scan")(x, None)[0]


@pytest.mark.parametrize(
    ("name", "fields", "model"),
    [
        ("googlenet", {"variant": "torchvision"}, "GoogLeNet"),
        ("resnet", {"depth": 50}, "ResNet50"),
        ("vgg", {"depth": 16}, "VGG16"),
        ("alexnet", {}, "AlexNet"),
        ("vit", {}, "ViT_B_16"),
    ],
)
def test_published_multiply_adds(name: str, fields: dict[str, Any], model: str) -> None:
    if name not in models.MODELS:
        pytest.skip(f"{name} is not in the registry")
    meta = getattr(import_torchvision().models, f"{model}_Weights").DEFAULT.meta
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    total = sum(of_module(models.MODELS[name](**fields), image, train=False).values())
    assert total == pytest.approx(2e9 * meta["_ops"], rel=0.01)


def test_scopes_are_module_paths_through_every_lifted_transform() -> None:
    product = 2.0 * 2 * 8 * 8
    counted = of_module(Lifted())
    assert sum(counted.values()) == product * 2 * (2 + 1 + 1 + 1 + 3)
    for name, times in {"shared": 2, "remat": 1, "jit": 1, "vmap": 1}.items():
        assert counted[f"Lifted/{name}/first"] == times * product
        assert counted[f"Lifted/{name}/{name}.second/second"] == times * product
    assert counted["Lifted/scan/block/first"] == 3 * product


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 2 * 8 * 8 * 6 * 3 * 3 * 4),
        ({"strides": 2}, 2 * 4 * 4 * 6 * 3 * 3 * 4),
        ({"feature_group_count": 2}, 2 * 8 * 8 * 6 * 3 * 3 * 2),
        ({"kernel_dilation": 2}, 2 * 8 * 8 * 6 * 3 * 3 * 4),
        ({"kernel_size": (1, 1)}, 2 * 8 * 8 * 6 * 4),
    ],
)
@pytest.mark.parametrize("library", [Conv, nn.Conv])
def test_convolutions(library: Any, fields: dict[str, Any], expected: int) -> None:
    x = jax.ShapeDtypeStruct((5, 8, 8, 4), jnp.float32)
    assert sum(of_module(library(6, **{"kernel_size": (3, 3)} | fields), x).values()) == 5 * expected


@pytest.mark.parametrize("library", [Conv, nn.Conv])
def test_a_depthwise_convolution_multiplies_each_channel_with_its_own_window(library: Any) -> None:
    x = jax.ShapeDtypeStruct((5, 8, 8, 4), jnp.float32)
    assert sum(of_module(library(4, (3, 3), feature_group_count=4), x).values()) == 5 * 2 * 8 * 8 * 4 * 3 * 3


def test_a_transposed_convolution_multiplies_each_input_with_the_kernel_once() -> None:
    x = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32)
    assert sum(of_module(nn.ConvTranspose(6, (2, 2), strides=(2, 2)), x).values()) == 2 * 8 * 8 * 4 * 2 * 2 * 6


def test_batched_products_branches_and_loops() -> None:
    a, b = (jax.ShapeDtypeStruct((3, *shape), jnp.float32) for shape in ((4, 5), (5, 6)))
    assert flops.count(lambda a, b: a @ b, a, b) == {"": 2 * 3 * 4 * 5 * 6}

    def branch(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: jnp.zeros((3, 4, 6)))

    def loop(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x + a @ b, jnp.zeros((3, 4, 6)))

    for function in (branch, loop):
        assert flops.count(function, a, b) == {"": 2 * 3 * 4 * 5 * 6}


def test_the_gradient_of_a_network_costs_three_forward_passes_less_the_first_layers_input() -> None:
    def loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = jnp.tanh(x @ kernel)
        return x.sum()

    kernels = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 4
    forward = math.fsum(flops.count(loss, kernels, X).values())
    assert math.fsum(flops.count(jax.grad(loss), kernels, X).values()) == forward * (3 - 1 / 4)
