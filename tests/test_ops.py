"""Every part equals the library's: values, winners at ties, gradients, and also in loops and under vmap."""

from __future__ import annotations

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from auxjax import ops


def both(function: Any, *args: Any) -> tuple[Any, Any]:
    """Returns `function`'s value and gradients in the fast form and in the library's."""

    def run() -> Any:
        def total(*args: Any) -> Any:
            y = function(*args)
            weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype)
            return (y * weights).sum(), y

        return jax.jit(jax.value_and_grad(total, argnums=tuple(range(len(args))), has_aux=True))(*args)

    fast = run()
    with ops.library_form():
        return fast, run()


def close(a: Any, b: Any, tolerance: float) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        scale = max(float(np.abs(np.asarray(y, np.float64)).max()), 1e-30)
        np.testing.assert_allclose(
            np.asarray(x, np.float64) / scale, np.asarray(y, np.float64) / scale, rtol=0, atol=tolerance
        )


POOLS = [
    ((7, 7), (3, 3), (1, 1), "SAME"), ((8, 9), (3, 3), (2, 2), "SAME"), ((9, 8), (3, 3), (2, 2), "VALID"),
    ((8, 8), (2, 2), (2, 2), "VALID"), ((7, 6), (3, 3), (2, 2), ((0, 1), (0, 0))),
    ((7, 7), (3, 2), (1, 3), ((1, 1), (0, 2))),
    ((5, 5), (5, 5), (3, 3), "SAME"), ((9, 9), (2, 2), (3, 3), "VALID"),
    ((1, 1), (3, 3), (2, 2), "SAME"), ((9, 7), (2, 3), (2, 3), "VALID"), ((4, 6), (2, 2), (2, 2), ((0, 0), (1, 1))),
]  # fmt: skip


@pytest.mark.parametrize(("size", "window", "strides", "padding"), POOLS)
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_and_the_winner_at_ties(size: Any, window: Any, strides: Any, padding: Any, ties: bool) -> None:
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    x = jnp.round(x) if ties else x
    fast, library = both(lambda x: ops.max_pool(x, window, strides, padding), x)
    np.testing.assert_array_equal(fast[0][1], library[0][1])
    np.testing.assert_array_equal(library[0][1], nn.max_pool(x, window, strides=strides, padding=padding))
    close(fast[1], library[1], 1e-6)


@pytest.mark.parametrize(("strides", "parts"), [((2, 2), 0), ((1, 1), 0), ((2, 1), 1)])
def test_the_gradient_of_windows_side_by_side_is_not_put_together_from_parts(
    strides: tuple[int, int], parts: int
) -> None:
    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(ops.max_pool(x, (2, 2), strides) ** 2)

    assert jax.jit(jax.grad(total)).lower(jnp.ones((2, 8, 8, 3))).as_text().count("stablehlo.concatenate") == parts


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_max_pool_in_half_precision(dtype: Any) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3)).astype(dtype)
    fast, library = both(lambda x: ops.max_pool(x, (3, 3), (1, 1), "SAME"), x)
    np.testing.assert_array_equal(fast[0][1].astype(jnp.float32), library[0][1].astype(jnp.float32))
    close(fast[1], library[1], 2e-2)


def test_max_pool_under_vmap() -> None:
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 3))
    fast, library = both(jax.vmap(lambda x: ops.max_pool(x, (3, 3), (2, 2), "SAME")), x)
    close(fast, library, 1e-6)


# With few channels, few features, and small kernels, each of which has a form of its own, and without.
CONVS = [
    ((3, 3), (1, 1), "SAME", 3, 4), ((3, 3), (2, 2), "SAME", 1, 18), ((7, 7), (2, 2), ((3, 3), (3, 3)), 3, 20),
    ((5, 5), (3, 3), "VALID", 6, 4), ((1, 1), (1, 1), "SAME", 3, 4), ((1, 1), (2, 2), "VALID", 4, 4),
    ((3, 2), (2, 1), ((0, 2), (1, 0)), 2, 4),
]  # fmt: skip


@pytest.mark.parametrize(("size", "strides", "padding", "channels", "features"), CONVS)
@pytest.mark.parametrize("bits", [32, 64])
def test_conv_is_nn_conv(size: Any, strides: Any, padding: Any, channels: int, features: int, bits: int) -> None:
    with jax.enable_x64(bits == 64):
        dtype = jnp.float64 if bits == 64 else jnp.float32
        x = jax.random.normal(jax.random.key(0), (2, 9, 10, channels), dtype)
        fields: Any = {"features": features, "kernel_size": size, "strides": strides, "padding": padding}
        fields |= {"dtype": dtype, "param_dtype": dtype}
        flax = nn.Conv(**fields)
        variables = flax.init(jax.random.key(1), x)
        ours = ops.Conv(**fields)
        initial = ours.init(jax.random.key(1), x)
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), initial, variables))
        fast, _ = both(lambda p, x: ours.apply({"params": p}, x), variables["params"], x)
        library, _ = both(lambda p, x: flax.apply({"params": p}, x), variables["params"], x)
        close(fast, library, 1e-6 if bits == 32 else 1e-14)


DEPTHWISE: list[dict[str, Any]] = [
    {"kernel_size": (3, 3)}, {"kernel_size": (5, 5), "strides": 2}, {"kernel_size": (4, 5), "strides": (2, 1)},
    {"kernel_size": (3, 3), "kernel_dilation": 2, "padding": 2}, {"kernel_size": (3, 2), "padding": ((0, 3), (-1, 1))},
    {"kernel_size": (3, 3), "strides": 3, "padding": "VALID"},
]  # fmt: skip


@pytest.mark.parametrize("fields", DEPTHWISE)
@pytest.mark.parametrize("bits", [32, 64])
def test_depthwise_conv_is_nn_conv(fields: dict[str, Any], bits: int) -> None:
    with jax.enable_x64(bits == 64):
        dtype = jnp.float64 if bits == 64 else jnp.float32
        x = jax.random.normal(jax.random.key(0), (2, 9, 10, 3), dtype)
        fields = fields | {"features": 3, "feature_group_count": 3, "dtype": dtype, "param_dtype": dtype}
        params = nn.Conv(**fields).init(jax.random.key(1), x)["params"]
        ours, flax = (
            both(lambda p, x, module=module: module.apply({"params": p}, x), params, x)[0]
            for module in (ops.Conv(**fields), nn.Conv(**fields))
        )
        close(ours, flax, 1e-6 if bits == 32 else 1e-14)


def test_depthwise_conv_on_a_cpu_is_no_convolution_and_its_gradient_has_a_forward_mode() -> None:
    x, kernel = jax.random.normal(jax.random.key(0), (2, 6, 6, 4)), jnp.ones((3, 3, 1, 4))
    convolve: Any = ops.Conv(4, (3, 3), feature_group_count=4, use_bias=False).apply

    def apply(x: Any) -> Any:
        return convolve({"params": {"kernel": kernel}}, x)

    assert "convolution" not in jax.jit(apply).lower(x).as_text()
    gradient = jax.grad(lambda x: (apply(x) ** 2).sum())
    close(jax.jvp(gradient, (x,), (x,))[1], gradient(x), 1e-6)
    with ops.library_form():
        assert "feature_group_count = 4" in jax.jit(lambda x: apply(x)).lower(x).as_text()


def test_depthwise_conv_in_half_precision_rounds_once() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 4), jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 1, 4), jnp.bfloat16)
    convolve: Any = ops.Conv(4, (7, 7), feature_group_count=4, use_bias=False).apply
    half = convolve({"params": {"kernel": kernel}}, x)
    exact = convolve({"params": {"kernel": kernel.astype(jnp.float32)}}, x.astype(jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("groups", [1, 3])
def test_conv_in_a_scan_and_under_vmap_over_kernels(groups: int) -> None:
    x, kernels = (
        jax.random.normal(jax.random.key(0), (2, 6, 6, 3)),
        jax.random.normal(jax.random.key(1), (4, 3, 3, 3 // groups, 3)),
    )

    def apply(x: Any, k: Any) -> Any:
        conv = ops.Conv(3, (3, 3), feature_group_count=groups, use_bias=False)
        return conv.apply({"params": {"kernel": k}}, x)

    def scanned(x: Any, kernels: Any) -> Any:
        return lax.scan(lambda x, k: (jnp.tanh(apply(x, k)), None), x, kernels)[0]

    close(*both(scanned, x, kernels), 1e-5)
    close(*both(lambda x, kernels: jax.vmap(apply, (None, 0))(x, kernels), x, kernels), 1e-5)
    close(*both(lambda x, kernels: jax.vmap(apply, (0, None))(jnp.stack([x, 2 * x]), kernels[0]), x, kernels), 1e-5)


def test_conv_under_vmap_over_kernels_is_no_grouped_convolution() -> None:
    x, kernels = jnp.ones((2, 6, 6, 8)), jnp.ones((4, 3, 3, 8, 3))
    convolve: Any = ops.Conv(3, (3, 3), use_bias=False).apply

    def apply(k: Any) -> Any:
        return jnp.var(convolve({"params": {"kernel": k}}, x))

    text = jax.jit(jax.vmap(jax.grad(apply))).lower(kernels).as_text()
    assert text.count("stablehlo.convolution(") == 8
    assert "feature_group_count = 4" not in text


@pytest.mark.parametrize(
    ("channels", "form"),
    [
        (1, "tensor<3x3x1x24xf32>"), (8, "tensor<3x3x8x16xf32>"),
        (3, f"tensor<3x3x{4 if jax.__version_info__ < (0, 12) else 3}x24xf32>"),
    ],
)  # fmt: skip
def test_conv_of_an_image_to_a_few_features_is_filled_up_on_a_cpu(channels: int, form: str) -> None:
    x, kernel = jnp.ones((2, 6, 6, channels)), jnp.ones((3, 3, channels, 16))
    convolve: Any = ops.Conv(16, (3, 3), use_bias=False).apply
    text = jax.jit(lambda k: convolve({"params": {"kernel": k}}, x)).lower(kernel).as_text()
    (line,) = [line for line in text.splitlines() if "stablehlo.convolution(" in line]
    assert form in line


def test_the_gradient_of_a_small_kernel_is_one_product_on_a_cpu() -> None:
    x, kernel = jnp.ones((2, 6, 6, 1)), jnp.ones((3, 3, 1, 16))
    convolve: Any = ops.Conv(16, (3, 3), use_bias=False).apply
    text = jax.jit(jax.grad(lambda k: jnp.sum(convolve({"params": {"kernel": k}}, x) ** 2))).lower(kernel).as_text()
    assert (text.count("stablehlo.convolution("), text.count("stablehlo.dot_general")) == (1, 1)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bits", [32, 64])
def test_batch_norm_is_nn_batch_norm_and_relu(relu: bool, bits: int) -> None:
    with jax.enable_x64(bits == 64):
        dtype = jnp.float64 if bits == 64 else jnp.float32
        x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 6), dtype)
        fields: Any = {"momentum": 0.9, "epsilon": 1e-3, "dtype": dtype, "param_dtype": dtype}
        flax, ours = nn.BatchNorm(**fields), ops.BatchNorm(relu=relu, **fields)
        variables = flax.init(jax.random.key(1), x, use_running_average=False)
        chex.assert_trees_all_equal_structs(variables, ours.init(jax.random.key(1), x, use_running_average=False))
        params = jax.tree.map(lambda p: p + jax.random.normal(jax.random.key(2), p.shape, dtype), variables["params"])

        def run(module: Any, after: Any, train: bool) -> Any:
            def loss(params: Any, x: Any) -> Any:
                y, state = module.apply(
                    {**variables, "params": params}, x, use_running_average=not train, mutable=["batch_stats"]
                )
                return (after(y) * jnp.cos(jnp.arange(y.size, dtype=dtype)).reshape(y.shape)).sum(), (after(y), state)

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

        for train in (True, False):
            close(
                run(ours, lambda y: y, train),
                run(flax, nn.relu if relu else lambda y: y, train),
                2e-6 if bits == 32 else 1e-14,
            )


def test_second_derivatives_go_through_the_gradients() -> None:
    """Forward over reverse, as Hessian-vector products are made."""
    x, kernel = jax.random.normal(jax.random.key(0), (2, 6, 6, 3)), jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def loss(kernel: Any) -> Any:
        variables = {
            "params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)},
            "batch_stats": {"mean": jnp.zeros(4), "var": jnp.ones(4)},
        }
        y = ops.Conv(4, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, x)
        y, _ = ops.BatchNorm(relu=True).apply(variables, y, use_running_average=False, mutable=["batch_stats"])
        return (ops.max_pool(y, (3, 3), (2, 2), "SAME") ** 2).sum()

    def product() -> Any:
        return jax.jit(lambda k: jax.jvp(jax.grad(loss), (k,), (k + 1,))[1])(kernel)

    fast = product()
    with ops.library_form():
        close(fast, product(), 1e-4)


def test_batch_norm_under_pmap_averages_over_the_devices() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 4, 3))
    alone, across = ops.BatchNorm(), ops.BatchNorm(axis_name="data")
    variables = alone.init(jax.random.key(0), x[0], use_running_average=False)
    whole, _ = alone.apply(variables, x.reshape(32, 3), use_running_average=False, mutable=["batch_stats"])
    parts, _ = jax.pmap(
        lambda x: across.apply(variables, x, use_running_average=False, mutable=["batch_stats"]), axis_name="data"
    )(x)
    close(parts.reshape(32, 3), whole, 1e-6)


def test_fast_init_gives_flaxs_values() -> None:
    model, x = nn.Dense(64), jnp.ones((1, 64))
    fast = ops.fast_init(model.init)(jax.random.key(0), x)
    close(fast, model.init(jax.random.key(0), x), 2e-7)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_is_nn_dropout_bit_for_bit(rate: float) -> None:
    x = jax.random.normal(jax.random.key(0), (4, 5))
    for train in (True, False):
        ours, flaxs = (
            module(rate, name="dropout").apply({}, x, deterministic=not train, rngs={"dropout": jax.random.key(1)})
            for module in (ops.Dropout, nn.Dropout)
        )
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(flaxs))


def test_dropout_takes_its_rate_as_an_argument() -> None:
    x = jnp.ones((64, 64))

    @jax.jit
    def run(rate: Any) -> jax.Array:
        out = ops.Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(1)})
        assert isinstance(out, jax.Array)
        return out

    for rate in (0.25, 0.5):
        expected = nn.Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(1)})
        np.testing.assert_allclose(run(jnp.float32(rate)), np.asarray(expected), rtol=1e-6)
    np.testing.assert_array_equal(run(jnp.float32(0)), x)
