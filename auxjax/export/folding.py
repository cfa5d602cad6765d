"""BatchNorm folded into the convolution before it, for inference, in any Linen model and without touching it."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

from auxjax import ops
from auxjax.export.network import Network, check_outputs

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv, ops.Conv, nn.Dense)
_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm, ops.BatchNorm)
_CONVOLUTION, _NORM = "auxjax convolution ", "auxjax norm "

Flat = dict[tuple[str, ...], np.ndarray]


def fold(network: Network) -> Network:
    """Returns the same network with every BatchNorm reduced to what inference needs of it.

    With f = scale / sqrt(var + epsilon) and s = bias - f mean, a BatchNorm gives f y + s. Where y is the output of a
    convolution or dense layer (nn.Conv, ops.Conv, nn.Dense) that nobody else reads, f goes into the kernel, one factor
    an output feature, and the norm only adds s (the layer does, where it has a bias). Any other BatchNorm, as before an
    activation in DenseNet, multiplies by f and adds s. One over another axis than the last, or in layers stacked by
    nn.scan, is left as it is.
    Raises AuxjaxError where the outputs on the network's examples are not the same to TOLERANCE.
    """
    x = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    before, norms = _trace(network, x)
    flat: Flat = traverse_util.flatten_dict(dict(network.variables))
    for norm, epsilon in norms.items():
        _fold_norm(flat, norm, epsilon, before.get(norm))
    variables = traverse_util.unflatten_dict(flat)

    def function(variables: Any, x: jax.Array) -> Any:
        with nn.intercept_methods(_affine):
            return network.function(variables, x)

    folded = network._replace(function=function, variables=variables)
    run = jax.jit(function)
    check_outputs("the folded network", network, lambda x: run(variables, x))
    return folded


def _fold_norm(flat: Flat, norm: str, epsilon: float, layer: str | None) -> None:
    """Rewrites one norm's arrays, and those of the layer that it folds into; in float32, each kept in its own dtype."""
    path = tuple(norm.split("/"))
    mean = flat.pop(("batch_stats", *path, "mean")).astype(np.float32)
    variance = flat.pop(("batch_stats", *path, "var")).astype(np.float32)
    scale, bias = (flat.pop(("params", *path, name), None) for name in ("scale", "bias"))
    dtype = next(array.dtype for array in (scale, bias) if array is not None)
    factor = (1 if scale is None else scale.astype(np.float32)) / np.sqrt(variance + np.float32(epsilon))
    shift = (0 if bias is None else bias.astype(np.float32)) - factor * mean
    if layer is None:
        flat["params", *path, "scale"] = factor.astype(dtype)
        flat["params", *path, "bias"] = shift.astype(dtype)
        return
    kernel_key, bias_key = (("params", *layer.split("/"), name) for name in ("kernel", "bias"))
    kernel = flat[kernel_key]
    wide = factor.reshape((1,) * (kernel.ndim - 1) + (-1,))
    flat[kernel_key] = (kernel.astype(np.float32) * wide).astype(kernel.dtype)
    if bias_key in flat:
        flat[bias_key] = (flat[bias_key].astype(np.float32) * factor + shift).astype(flat[bias_key].dtype)
    else:
        flat["params", *path, "bias"] = shift.astype(dtype)


def _affine(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Computes a BatchNorm that has lost its statistics: times its scale, plus its bias, where it still has them."""
    module = context.module
    if not _is_call(context, _NORMS) or module.has_variable("batch_stats", "mean"):
        return function(*args, **kwargs)
    x = y = args[0]
    wide = (1,) * (x.ndim - 1) + (-1,)
    if module.has_variable("params", "scale"):
        y = y * module.get_variable("params", "scale").reshape(wide)
    if module.has_variable("params", "bias"):
        y = y + module.get_variable("params", "bias").reshape(wide)
    y = y.astype(module.dtype or jnp.result_type(x, module.param_dtype))
    return nn.relu(y) if getattr(module, "relu", False) else y


def _trace(network: Network, x: jax.ShapeDtypeStruct) -> tuple[dict[str, str], dict[str, float]]:
    """Returns the layer that each norm folds into, for those that do, and the epsilon of every norm to reduce.

    Layers and norms put their names on a value where they write or read it, and the program tells who else reads it.
    """
    epsilons: dict[str, float] = {}

    def mark(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        path = "/".join(module.path)
        if _is_call(context, _CONVOLUTIONS):
            y = function(*args, **kwargs)
            return checkpoint_name(y, _CONVOLUTION + path) if _is_stored(module, network.variables) else y
        if _is_call(context, _NORMS) and _is_affine(module, args) and _is_stored(module, network.variables):
            epsilons[path] = module.epsilon
            args = (checkpoint_name(args[0], _NORM + path), *args[1:])
        return function(*args, **kwargs)

    def marked(variables: Any, x: jax.Array) -> Any:
        with nn.intercept_methods(mark):
            return network.function(variables, x)

    program = jax.make_jaxpr(marked)(network.variables, x).jaxpr
    names = list(_names(program))
    written = collections.Counter(name for name, _ in names)
    layers = {
        readers[0]: name
        for name, readers in names
        if name.startswith(_CONVOLUTION) and len(readers) == 1 and readers[0].startswith(_NORM)
    }
    once = {norm: layer for norm, layer in layers.items() if written[norm] == 1 and written[layer] == 1}
    norms = {path: epsilon for path, epsilon in epsilons.items() if written[_NORM + path]}
    return {norm.removeprefix(_NORM): layer.removeprefix(_CONVOLUTION) for norm, layer in once.items()}, norms


def _names(jaxpr: Jaxpr) -> Iterator[tuple[str, list[str]]]:
    """Yields each name in a program, those inside its subprograms too, with the names of all that read its value."""
    readers: dict[Var, list[str]] = collections.defaultdict(list)
    for eqn in jaxpr.eqns:
        for value in eqn.invars:
            if isinstance(value, Var):
                readers[value].append(str(eqn.params.get("name", "")) if eqn.primitive.name == "name" else "")
    for value in jaxpr.outvars:
        if isinstance(value, Var):
            readers[value].append("")
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "name":
            yield eqn.params["name"], readers[eqn.outvars[0]]
        for parameter in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: isinstance(p, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(parameter, Jaxpr | ClosedJaxpr):
                yield from _names(parameter.jaxpr if isinstance(parameter, ClosedJaxpr) else parameter)


def _is_call(context: nn.module.InterceptorContext, kinds: tuple[type[nn.Module], ...]) -> bool:
    """A subclass or a transformed class may do something else than its parent, so the type has to be the very one."""
    return type(context.module) in kinds and context.method_name == "__call__"


def _is_affine(module: Any, args: Any) -> bool:
    """Returns whether this call maps each feature, on the last axis, by learned numbers of its own."""
    last = bool(args) and getattr(module, "axis", -1) in (-1, args[0].ndim - 1)
    return last and (getattr(module, "use_scale", True) or getattr(module, "use_bias", True))


def _is_stored(module: nn.Module, variables: Mapping[str, Any]) -> bool:
    """Returns whether the module sees its arrays as they are stored, not a slice of stacked ones."""
    for collection, inner in module.variables.items():
        stored: Any = variables.get(collection, {})
        for name in module.path:
            stored = stored.get(name, {}) if isinstance(stored, Mapping) else {}
        if [jnp.shape(a) for a in jax.tree.leaves(inner)] != [jnp.shape(a) for a in jax.tree.leaves(stored)]:
            return False
    return True
