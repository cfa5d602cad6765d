"""FLOPs of a traced function, by module: convolutions and matrix products, as the literature counts them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import JaxprEqn, jaxprs_in_params

from auxjax import ops

# vmap(block), jvp(block) and the like: what JAX writes around the scopes that a transform encloses.
_TRANSFORM = re.compile(r"\w+\(|\)")


def count(function: Callable[..., Any], *args: Any) -> dict[str, float]:
    """Returns the FLOPs of `function(*args)` by the scope that they stand in, such as `GoogLeNet/conv2/conv`.

    A multiply-add is two FLOPs. Only convolutions and matrix products count, as in published numbers: no pool, no
    normalisation, nothing elementwise. What a convolution multiplies in its padding counts; the zeros with which a
    transposed one spreads its input do not. A scan's body counts once a step, of a `cond` the costliest branch, and
    the body of a `while` with an unknown number of rounds once. Linen names a scope for every call of a submodule.
    `args` may be arrays or shape structs; nothing is computed. The sum over the values is the whole function's.
    """
    # In the form that is fast on a CPU a depthwise convolution is elementwise.
    with nn.override_named_call(True), ops.library_form():
        closed = jax.make_jaxpr(function)(*args)
    return of_equations(closed.jaxpr.eqns)


def of_equations(equations: Iterable[JaxprEqn], prefix: str = "") -> dict[str, float]:
    """Returns the same for the equations of a jaxpr, their scopes below `prefix`."""
    totals: dict[str, float] = {}
    for equation in equations:
        # A jaxpr inside an equation names its scopes from there on.
        scope = _TRANSFORM.sub("", str(equation.source_info.name_stack))
        path = "/".join(part for part in (prefix, scope) if part)
        for inner, value in _of_equation(equation, path).items():
            totals[inner] = totals.get(inner, 0.0) + value
    return totals


def _of_equation(equation: JaxprEqn, path: str) -> dict[str, float]:
    kind, params = equation.primitive.name, equation.params
    if kind == "conv_general_dilated":
        return {path: _convolution(equation)}
    if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = _shape(equation.invars[0])
        return {path: 2.0 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)}
    inner = [of_equations(jaxpr.eqns, path) for jaxpr in jaxprs_in_params(params)]
    if kind == "cond":
        return max(inner, key=lambda branch: sum(branch.values()))
    times = params["length"] if kind == "scan" else 1
    merged: dict[str, float] = {}
    for part in inner:
        for scope, value in part.items():
            merged[scope] = merged.get(scope, 0.0) + times * value
    return merged


def _convolution(equation: JaxprEqn) -> float:
    """Returns 2 x output elements x the kernel elements of one of them, less the zeros of a spread input.

    The kernel's input features are those of one group.
    """
    params = equation.params
    kernel = _shape(equation.invars[1])
    _, features, *spatial = params["dimension_numbers"].rhs_spec
    window = kernel[features] * math.prod(kernel[axis] for axis in spatial)
    return 2.0 * math.prod(_shape(equation.outvars[0])) * window / math.prod(params["lhs_dilation"])


def _shape(variable: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = variable.aval.shape
    return shape
