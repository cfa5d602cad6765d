"""K gradients from one forward pass: a pullback for each loss, over no more of the network than lies below its tap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jax.interpreters import ad

# Primitives that call an inner program, by their names in all supported versions of JAX: as it is, and recomputed.
CALLS, CHECKPOINTS = ("jit", "pjit"), ("checkpoint", "remat2")
# Primitives whose inner program has the very inputs and outputs of the outer one.
_TRANSPARENT = (*CALLS, *CHECKPOINTS, "closed_call", "custom_jvp_call", "custom_vjp_call")


class Pullbacks(NamedTuple):
    """K arrays, what else the pass left, and `pull(k, cotangent)`: array k's cotangent pulled back to the primal."""

    values: tuple[jax.Array, ...]
    extras: Any
    pull: Callable[[int, jax.Array], Any]
    together: Callable[[tuple[jax.Array, ...]], Any]


def pullbacks(function: Callable[[Any], tuple[tuple[jax.Array, ...], Any]], primal: Any) -> Pullbacks:
    """Returns the K scalars of `function(primal) -> (scalars, extras)` with a pullback of each, and of all together.

    The other K - 1 cotangents are zero by structure, not by value, so that whatever leads to them alone is not
    computed: with heads on taps at different depths each loss pays for the layers below its own tap.
    """
    values, pullback, extras = jax.vjp(function, primal, has_aux=True)
    zeros = [ad.Zero(jax.typeof(value).to_tangent_aval()) for value in values]

    def pull(k: int, cotangent: jax.Array) -> Any:
        return pullback((*zeros[:k], cotangent.astype(values[k].dtype), *zeros[k + 1 :]))[0]

    def together(cotangents: tuple[jax.Array, ...]) -> Any:
        return pullback(tuple(c.astype(v.dtype) for c, v in zip(cotangents, values, strict=True)))[0]

    return Pullbacks(values, extras, pull, together)


def reached(passes: Pullbacks) -> tuple[Any, ...]:
    """Returns K trees of bools: whether the gradient of scalar k reaches that leaf, by the structure of the program.

    True may be said of a leaf inside a loop (`nn.scan`) that only another leaf of it is reached through.
    """
    size = len(passes.values)
    program, shapes = jax.make_jaxpr(passes.together, return_shape=True)(passes.values)
    flags = [_depends(program.jaxpr, [i == k for i in range(size)]) for k in range(size)]
    return tuple(jax.tree.unflatten(jax.tree.structure(shapes), row) for row in flags)


def _depends(program: Jaxpr, inputs: list[bool]) -> list[bool]:
    """Returns which outputs of a program depend on those of its inputs that are marked."""
    marked = {v for v, mark in zip(program.invars, inputs, strict=True) if mark}
    for eqn in program.eqns:
        given = [isinstance(v, Var) and v in marked for v in eqn.invars]
        if not any(given):
            continue
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
        if isinstance(inner, Jaxpr) and eqn.primitive.name in _TRANSPARENT and len(inner.invars) == len(given):
            outputs = _depends(inner, given)
        else:
            outputs = [True] * len(eqn.outvars)
        marked |= {v for v, mark in zip(eqn.outvars, outputs, strict=True) if mark}
    return [isinstance(v, Var) and v in marked for v in program.outvars]
