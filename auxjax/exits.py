"""exits(): heads that answer at inference where they are confident, and the rest of the network is then not computed.

BranchyNet, Teerapittayanon et al. 2016, arXiv 1709.01686, section III-C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from auxjax import flops, ops
from auxjax.attach import Attached
from auxjax.errors import AuxjaxError, unknown
from auxjax.taps import list_taps, reads

Thresholds = float | Mapping[str, float]

# Programs inside a program that a stage may have to cut in two; a scan or a cond stays whole.
_INLINED = ("jit", "pjit", "checkpoint", "remat", "remat2")


class Stages(NamedTuple):
    """A program that returns the logits of K exits and then main's, its equations by the first exit that needs them."""

    names: tuple[str, ...]
    program: ClosedJaxpr
    equations: tuple[tuple[JaxprEqn, ...], ...]


def exits(attached: Attached, thresholds: Thresholds) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns `predict(variables, *inputs) -> (logits, exit_index)` in which a head answers where it is confident.

    Each example leaves at the first exit where the entropy of its softmax, in nats, is below the threshold; main
    answers for the rest. `thresholds` is one for all heads, or one for each head that may answer; 0 lets nothing leave.
    Exits are in the order in which their taps are computed. `variables` has both halves; `logits` is float[B, N] and
    `exit_index` int32[B], K being main. A later stage is computed only if an example of the batch is left for it: one
    example at a time saves most. `predict` is pure; `jax.jit` serves it, `vmap` would compute all stages.
    Raises AuxjaxError for a head that does not exist, no head at all, and outputs that are not all of one [B, N].
    """
    limits = limits_of(attached, thresholds)

    def predict(variables: Any, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        stages = split(attached, tuple(limits), variables, *inputs)
        program = stages.program.jaxpr
        values = dict(zip(program.constvars, stages.program.consts, strict=True))
        values |= dict(zip(program.invars, jax.tree.leaves((variables, inputs)), strict=True))
        first: Any = program.outvars[0].aval
        kind = jnp.result_type(*(output.aval.dtype for output in program.outvars))
        nobody = jnp.full(first.shape[:1], len(stages.names), jnp.int32)
        return _answer(stages, limits, 0, values, jnp.zeros(first.shape, kind), nobody)

    return predict


def _answer(
    stages: Stages, limits: Mapping[str, float], number: int, values: Mapping[Var, Any], logits: jax.Array,
    index: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Returns logits and exit index once stage `number` and, where an example is left, all later ones are computed."""
    last, computed = len(stages.names), dict(values)
    _evaluate(stages.program.jaxpr, stages.equations[number], computed)
    answer = _read(stages.program.jaxpr.outvars[number], computed).astype(logits.dtype)
    leaves = index == last
    if number < last:
        leaves &= entropy(answer) < limits[stages.names[number]]
    logits = jnp.where(leaves.reshape(-1, 1), answer, logits)
    if number == last:
        return logits, index
    index = jnp.where(leaves, number, index)

    def rest() -> tuple[jax.Array, jax.Array]:
        return _answer(stages, limits, number + 1, computed, logits, index)

    return jax.lax.cond(jnp.any(index == last), rest, lambda: (logits, index))


def split(attached: Attached, names: Sequence[str], variables: Any, *inputs: Any) -> Stages:
    """Returns the network in inference as stages, one for each of the heads `names` in order of depth, then main's."""
    order = _by_depth(attached, names, inputs)

    def outputs(variables: Any, inputs: Any) -> list[jax.Array]:
        # What stops a head's gradient does not change what it says, so any step will do.
        found = attached.apply(variables, *inputs, train=False, heads=order, step=0)
        return [found[name] for name in (*order, "main")]

    traced = jax.make_jaxpr(outputs)(variables, inputs)
    flat = jax.make_jaxpr(lambda *leaves: _inlined(traced.jaxpr, traced.consts, leaves))(
        *jax.tree.leaves((variables, inputs))
    )
    shapes = {name: list(out.aval.shape) for name, out in zip((*order, "main"), flat.jaxpr.outvars, strict=True)}
    for name, shape in shapes.items():
        if len(shape) != 2 or shape != shapes["main"]:
            raise AuxjaxError(
                f"exits are for classifiers: {name!r} gives {shape}, main {shapes['main']}; all must be one [B, N]"
            )
    done: set[int] = set()
    stages = []
    for output in flat.jaxpr.outvars:
        needed = _needed(flat.jaxpr, output) - done
        done |= needed
        stages.append(tuple(flat.jaxpr.eqns[i] for i in sorted(needed)))
    return Stages(tuple(order), flat, tuple(stages))


def stage_flops(attached: Attached, names: Sequence[str], variables: Any, *inputs: Any) -> dict[str, float]:
    """Returns the FLOPs of each stage for the whole batch, by its exit, as `auxjax.flops.count` counts them."""
    with ops.library_form():
        stages = split(attached, names, variables, *inputs)
    counted = [math.fsum(flops.of_equations(stage).values()) for stage in stages.equations]
    return dict(zip((*stages.names, "main"), counted, strict=True))


def limits_of(attached: Attached, thresholds: Thresholds) -> dict[str, float]:
    given = dict(thresholds) if isinstance(thresholds, Mapping) else dict.fromkeys(attached.heads, thresholds)
    for name in given:
        if name not in attached.heads:
            raise unknown("head", name, attached.heads)
    if not given:
        raise AuxjaxError("exits need heads, and there is none: attach some, or name those that may answer")
    return given


def _by_depth(attached: Attached, names: Sequence[str], inputs: Any) -> list[str]:
    taps = list(list_taps(attached.model, *inputs))

    def depth(name: str) -> int:
        return next((i for i, tap in enumerate(taps) if reads(attached.heads[name].at, tap)), len(taps))

    return sorted((name for name in attached.heads if name in names), key=depth)


def _inlined(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a program and, equation by equation, those inside it that a stage may have to cut."""
    values: dict[Var, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    for equation in jaxpr.eqns:
        if equation.primitive.name in _INLINED:
            inner = equation.params["jaxpr"]
            body, constants = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
            results = _inlined(body, constants, [_read(variable, values) for variable in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        else:
            _evaluate(jaxpr, [equation], values)
    return [_read(output, values) for output in jaxpr.outvars]


def _evaluate(jaxpr: Jaxpr, equations: Sequence[JaxprEqn], values: dict[Var, Any]) -> None:
    """Adds to `values` what some of a program's equations compute."""
    outputs = [variable for equation in equations for variable in equation.outvars]
    used = dict.fromkeys(v for equation in equations for v in equation.invars if isinstance(v, Var) and v in values)
    part = jaxpr.replace(constvars=[], invars=list(used), outvars=outputs, eqns=list(equations))
    results = jaxpr_as_fun(ClosedJaxpr(part, ()))(*(values[variable] for variable in used))
    values.update(zip(outputs, results, strict=True))


def _read(variable: Var | Literal, values: Mapping[Var, Any]) -> Any:
    return variable.val if isinstance(variable, Literal) else values[variable]


def _needed(jaxpr: Jaxpr, output: Var | Literal) -> set[int]:
    """Returns the positions of the equations that `output` depends on."""
    wanted, found = {output} if isinstance(output, Var) else set(), set()
    for i in reversed(range(len(jaxpr.eqns))):
        if wanted.intersection(jaxpr.eqns[i].outvars):
            found.add(i)
            wanted.update(variable for variable in jaxpr.eqns[i].invars if isinstance(variable, Var))
    return found


def entropy(logits: jax.Array) -> jax.Array:
    """Returns -sum_n p_n log p_n of the softmax in nats: float[B, N] to float32[B]."""
    log = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -(jnp.exp(log) * log).sum(-1)
