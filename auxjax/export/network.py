"""The network to export: the bare model in inference, shown to hold no array of a head, and outputs to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from auxjax.errors import AuxjaxError
from auxjax.proof import bare_shapes, check_bare
from auxjax.taps import method_of, mode_flags

Function = Callable[[Any, jax.Array], Any]

BATCH_SIZES = (1, 3)
TOLERANCE = 1e-4
# Sixteen-bit numbers carry 8 or 11 bits, and another order of operations rounds them elsewhere.
HALF_TOLERANCE = 5e-2


class Network(NamedTuple):
    """`function(variables, x)` gives the logits of float32[B, *image_shape]; `model` is where it came from.

    `examples` are inputs and the outputs expected; a folded network keeps those of the network before.
    """

    model: nn.Module
    function: Function
    variables: Mapping[str, Any]
    image_shape: tuple[int, ...]
    examples: tuple[tuple[np.ndarray, Any], ...]


def bare_network(model: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, ...]) -> Network:
    """Returns the network in inference; runs it once on random inputs of each batch size in BATCH_SIZES.

    `variables` are the bare model's (`auxjax.strip`, `auxjax.load`). Raises AuxjaxError, naming it, for an array that
    the bare model does not have, as that of a head would be, for one that is missing, and for outputs not finite.
    """
    variables = jax.device_get(dict(variables))
    check_bare(model, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    function = _inference(model)
    keys = jax.random.split(jax.random.key(0), len(BATCH_SIZES))
    inputs = [np.asarray(jax.random.normal(key, (n, *image_shape))) for key, n in zip(keys, BATCH_SIZES, strict=True)]
    examples = tuple((x, jax.device_get(jax.jit(function)(variables, x))) for x in inputs)
    if not all(np.isfinite(y).all() for _, outputs in examples for y in jax.tree.leaves(outputs)):
        raise AuxjaxError(f"{type(model).__name__} gives outputs that are not finite on random inputs: not exported")
    return Network(model, function, variables, tuple(image_shape), examples)


def count(tree: Any) -> int:
    """Returns the number of elements of all arrays in a tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def baked(network: Network) -> Callable[[jax.Array], Any]:
    """Returns the network as a function of its input alone."""
    # Arrays of jax, since every use of one of numpy's would be a constant of its own.
    variables = jax.tree.map(jnp.asarray, network.variables)
    return lambda x: network.function(variables, x)


def check_size(what: str, network: Network) -> None:
    """Raises AuxjaxError where the network with its arrays inside holds more numbers than the bare model's program.

    A model may have constants of its own, such as fixed positions, and those are counted with its arrays.
    """
    x = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    inside = count(jax.make_jaxpr(baked(network))(x).consts)
    bare = bare_shapes(network.model, x)
    bound = count(bare) + count(jax.make_jaxpr(_inference(network.model))(bare, x).consts)
    if inside > bound:
        raise AuxjaxError(f"{what} would hold {inside:,} numbers, the bare model has {bound:,}: not exported")


def check_outputs(what: str, network: Network, run: Callable[[np.ndarray], Any]) -> None:
    """Raises AuxjaxError unless `run` gives what the network gave on its examples.

    The largest difference may be TOLERANCE of the largest expected value (HALF_TOLERANCE for sixteen-bit outputs).
    """
    for x, outputs in network.examples:
        expected, actual = jax.tree.leaves(outputs), jax.tree.leaves(run(x))
        if [np.shape(y) for y in actual] != [np.shape(y) for y in expected]:
            shapes = f"{[list(np.shape(y)) for y in actual]}, expected {[list(np.shape(y)) for y in expected]}"
            raise AuxjaxError(f"{what} gives outputs of shape {shapes} at batch size {len(x)}: not exported")
        for y, z in zip(expected, actual, strict=True):
            error = relative_error(z, y)
            if not error <= (TOLERANCE if np.dtype(y.dtype).itemsize > 2 else HALF_TOLERANCE):
                raise AuxjaxError(
                    f"{what} differs from the network by {error:.1e} of its largest output at batch size {len(x)}: "
                    "not exported"
                )


def _inference(model: nn.Module) -> Function:
    flags = mode_flags(method_of(model, None), False, {})
    return lambda variables, x: model.apply(variables, x, **flags)


def relative_error(actual: Any, expected: Any) -> float:
    """Returns the largest absolute difference over the largest expected absolute value."""
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
