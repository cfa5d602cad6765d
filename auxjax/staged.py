"""K gradients of what a weighting looks at, and then one weighted sum for all else, without going any way twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun
from jax.interpreters import ad

from auxjax.pullbacks import CALLS, CHECKPOINTS, Pullbacks
from auxjax.trunk import named, unnamed
from auxjax.weighting.protocol import combine

# A cotangent's value for each of the losses that reach it.
Rows = dict[int, jax.Array]


class Stages(NamedTuple):
    """By path: the gradients of what was wanted for each loss that reaches it, and weighted sums of the others."""

    rows: dict[str, Rows]
    weighted: Callable[[jax.Array], dict[str, jax.Array]]


def staged(passes: Pullbacks, scales: jax.Array, wanted: Mapping[str, bool]) -> Stages:
    r"""Pulls K losses back one by one as far as the arrays that are wanted, and on to all others as one weighted sum.

    Loss k starts from `scales[k]`; `wanted` has the primal's arrays in their order. A backward pass is linear in what
    it starts from: $\sum_k w_k J^T c_k = J^T \sum_k w_k c_k$. The K cotangents go one by one through the equations that
    lead to a wanted array; where an equation leads to none, they go on as their sum. So a layer between two taps pays
    K times for what it passes on, but once for its own parameters. (A `custom_vjp` that is not linear, as one that
    clips, is taken of the sum there.)
    """
    cotangents = [scale.astype(v.dtype) for scale, v in zip(scales, passes.values, strict=True)]
    program = _flat(lambda *given: jax.tree.leaves(passes.together(given)), cotangents)
    jaxpr = program.jaxpr
    ends = dict(zip(wanted, jaxpr.outvars, strict=True))
    known = dict(zip(jaxpr.constvars, program.consts, strict=True))
    rows: dict[Var, Rows] = {v: {k: c} for k, (v, c) in enumerate(zip(jaxpr.invars, cotangents, strict=True))}
    later = _run(jaxpr, known, rows, _ancestors(jaxpr, [v for name, v in ends.items() if wanted[name]]))

    def weighted(weights: jax.Array) -> dict[str, jax.Array]:
        values = dict(known)

        def total(v: Var | Literal) -> Any:
            if isinstance(v, Var) and v not in values:
                values[v] = weighted_sum(rows[v], weights) if rows[v] else _zeros(v)
            return _read(values, v)

        for eqn in later:
            values.update(zip(eqn.outvars, _bind(jaxpr, eqn, [total(v) for v in eqn.invars]), strict=True))
        return {name: total(v) for name, v in ends.items() if not wanted[name]}

    found = {name: {} if isinstance(v, Literal) else rows.get(v, {}) for name, v in ends.items() if wanted[name]}
    return Stages(found, weighted)


def weighted_sum(row: Rows, weights: jax.Array) -> jax.Array:
    """Returns the sum of one array's gradients under [K] weights."""
    total: jax.Array = combine(jnp.stack([weights[k] for k in row]), [*row.values()])
    return total


def by_loss(rows: Mapping[str, Rows], under: str, size: int) -> list[dict[str, jax.Array]]:
    """Returns for each of K losses its gradients of the arrays under a path, by what follows that path."""
    return [
        {name.removeprefix(under): row[k] for name, row in rows.items() if name.startswith(under) and k in row}
        for k in range(size)
    ]


def heads_own(rows: Mapping[str, Rows], under: str, like: Any) -> Any:
    """Returns the gradients of the heads' parameters, each from its own loss, which alone reaches it as a rule."""
    own = {}
    for name, array in named(like).items():
        first, *others = [*rows[under + name].values()] or [jnp.zeros_like(array)]
        own[name] = sum(others, start=first)
    return unnamed(like, own)


def _flat(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Returns the program of a function without calls of inner programs, and each of its variables set once."""
    program = jax.make_jaxpr(function)(*arguments)
    return jax.make_jaxpr(lambda *given: _inlined(program.jaxpr, program.consts, given))(*arguments)


def _inlined(program: Jaxpr, consts: Iterable[Any], arguments: Iterable[Any]) -> list[Any]:
    values = dict(zip([*program.constvars, *program.invars], [*consts, *arguments], strict=True))
    for eqn in program.eqns:
        given = [_read(values, v) for v in eqn.invars]
        if eqn.primitive.name in CALLS:
            inner = eqn.params["jaxpr"]
            results: Sequence[Any] = _inlined(inner.jaxpr, inner.consts, given)
        else:
            results = _bind(program, eqn, given)
        values.update(zip(eqn.outvars, results, strict=True))
    return [_read(values, v) for v in program.outvars]


def _ancestors(program: Jaxpr, outputs: Iterable[Var | Literal]) -> set[Var]:
    """Returns the variables that the outputs are computed from, and the outputs."""
    found = {v for v in outputs if isinstance(v, Var)}
    for eqn in reversed(program.eqns):
        if any(v in found for v in eqn.outvars):
            found |= {v for v in eqn.invars if isinstance(v, Var)}
    return found


def _run(program: Jaxpr, known: dict[Var, Any], rows: dict[Var, Rows], early: set[Var]) -> list[Any]:
    """Fills in what does not depend on cotangents and the rows that lead to `early`; returns the equations left."""
    later: list[Any] = []
    waiting: set[Var] = set()
    eqn: Any
    for eqn in program.eqns:
        linear = [isinstance(v, Var) and (v in rows or v in waiting) for v in eqn.invars]
        if not any(linear):
            known.update(zip(eqn.outvars, _bind(program, eqn, [_read(known, v) for v in eqn.invars]), strict=True))
            continue
        now = [v in early for v in eqn.outvars]
        if any(now):
            losses = {k for v, flag in zip(eqn.invars, linear, strict=True) if flag for k in rows[v]}
            rows |= {v: {} for v in eqn.outvars if v in early}
            bind_row = _row_binder(program, eqn, linear, now)
            for k in sorted(losses):
                given = [rows[v].get(k) if f else _read(known, v) for v, f in zip(eqn.invars, linear, strict=True)]
                for v, result in zip(eqn.outvars, bind_row(given), strict=True):
                    if v in early and result is not None:
                        rows[v][k] = result
        if not all(now):
            later.append(eqn)
            waiting |= {v for v in eqn.outvars if v not in early}
    return later


def _row_binder(program: Jaxpr, eqn: Any, linear: list[bool], now: list[bool]) -> Callable[[list[Any]], Sequence[Any]]:
    """Returns what takes an equation's inputs for one loss to its results; None is a cotangent of zero by structure."""
    if eqn.primitive.name in CHECKPOINTS:
        return _checkpoint_binder(eqn, linear, now)

    def bind(given: list[Any]) -> Sequence[Any]:
        if eqn.primitive.name in ("add_any", "add") and any(x is None for x in given):
            return [x for x in given if x is not None]
        return _bind(program, eqn, [_zeros(v) if x is None else x for v, x in zip(eqn.invars, given, strict=True)])

    return bind


def _checkpoint_binder(eqn: Any, linear: list[bool], now: list[bool]) -> Callable[[list[Any]], Sequence[Any]]:
    """Returns the same for a part of the network that is computed again, of which this does what it needs alone."""
    inner = eqn.params["jaxpr"]
    program = jax.make_jaxpr(lambda *arguments: _inlined(inner, (), arguments))(*(v.aval for v in inner.invars)).jaxpr
    ends = [v if want else None for v, want in zip(program.outvars, now, strict=True)]
    early = _ancestors(program, [v for v in ends if v is not None])

    def bind(given: list[Any]) -> Sequence[Any]:
        def row(*present: Any) -> list[Any]:
            arguments = iter(present)
            known: dict[Var, Any] = {}
            rows: dict[Var, Rows] = {}
            for v, x, flag in zip(program.invars, given, linear, strict=True):
                if flag:
                    rows[v] = {} if x is None else {0: next(arguments)}
                else:
                    known[v] = next(arguments)
            _run(program, known, rows, early)
            return [rows.get(v, {}).get(0) if isinstance(v, Var) else None for v in ends]

        present = [x for x in given if x is not None]
        narrowed, shapes = jax.make_jaxpr(row, return_shape=True)(*present)
        results = eqn.primitive.bind(*present, **{**eqn.params, "jaxpr": narrowed.jaxpr})
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return bind


def _bind(program: Jaxpr, eqn: Any, given: Sequence[Any]) -> Sequence[Any]:
    """Returns the results of one equation of a program; it keeps its name in a profile."""
    values = {v: x for v, x in zip(eqn.invars, given, strict=True) if isinstance(v, Var)}
    alone = program.replace(constvars=(), invars=[*values], outvars=eqn.outvars, eqns=[eqn])
    results: Sequence[Any] = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*values.values())
    return results


def _read(values: Mapping[Var, Any], v: Var | Literal) -> Any:
    return v.val if isinstance(v, Literal) else values[v]


def _zeros(v: Var) -> Any:
    return ad.instantiate_zeros(ad.Zero(v.aval))
