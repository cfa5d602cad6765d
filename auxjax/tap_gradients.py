"""Weights decided on the gradients at the shallowest tap, so that the layers below it are passed through once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.gradients import Pass, apply, own_weights, psum, shares_of, signals
from auxjax.pullbacks import Pullbacks, pullbacks, reached
from auxjax.state import Batch, TrainState
from auxjax.taps import captured_shapes, parse
from auxjax.trunk import named, unnamed
from auxjax.weighting.protocol import combine, gramian_of

_UNCUT = "value_before_the_cut"


def tap_gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None = None) -> Pass:
    """One forward pass, K pullbacks down to the shallowest tap, and one of their weighted sum from there on.

    The Gramian is that of the K gradients with respect to the tap's output (MTL's feature level, as in Sener & Koltun
    2018, section 3.3). The shallowest tap is that of the head that reaches the fewest arrays. A gradient that comes
    by another way than through the tap counts with its weight, but not in the Gramian. Raises AuxjaxError for a tap
    that is not the only call of a submodule outside any scan, and for a weighting that needs more than the Gramian.
    """
    weighting = state.program.weighting
    if weighting.needs & {"gradients", "held_out"}:
        raise AuxjaxError("trunk='taps' has no gradients of parameters: take trunk='shared' for this weighting")
    path, method = parse(_shallowest(state, batch, key, axis_name))[:2]
    delta = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), _output(state, batch, path, method))

    def cut_losses(primal: Any) -> tuple[tuple[jax.Array, ...], Any]:
        with nn.intercept_methods(_cut(path, method, primal["delta"])):
            outputs, updates = apply(state, primal["params"], state.statistics, batch, key, ("intermediates",))
        shares, extras = shares_of(state, batch, outputs, updates, axis_name)
        value = _sown(updates["intermediates"]["model"], path)
        return (*shares, *jax.tree.leaves(value)), extras

    passes = pullbacks(cut_losses, {"params": state.params, "delta": delta})
    scales, size = own_weights(state), 1 + len(state.program.names)
    losses = psum(jnp.stack(passes.values[:size]), axis_name)
    pulled = [passes.pull(k, scales[k]) for k in range(size)]
    at_tap = [jax.tree.leaves(p["delta"]) for p in pulled]
    given = signals(state, losses)._replace(gramian=psum(gramian_of(at_tap), axis_name))
    update, weighting_state = weighting.update(jax.lax.stop_gradient(given), state.weighting_state)
    weights = jnp.broadcast_to(update.weights, scales.shape)
    below = _below(passes, [combine(weights, [g[i] for g in at_tap]) for i in range(len(at_tap[0]))])
    model = _sum(passes, pulled, below, weights)
    heads = jax.tree.map(lambda *arrays: sum(arrays), *(p["params"]["heads"] for p in pulled))
    grads = psum({"model": model, "heads": heads}, axis_name)
    statistics, hits = passes.extras
    return Pass(losses, scales * weights, weighting_state, grads, statistics, hits)


def _shallowest(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None) -> str:
    """Returns the tap of the head whose gradient reaches the fewest arrays of the model."""

    def losses(params: Any) -> tuple[tuple[jax.Array, ...], Any]:
        outputs, updates = apply(state, params, state.statistics, batch, key)
        return shares_of(state, batch, outputs, updates, axis_name)

    passes = pullbacks(losses, state.params)
    names = state.program.names
    if not names:
        raise AuxjaxError("trunk='taps' needs a head that is trained: give one a weight, or take trunk='shared'")
    counts = [sum(named(reached(passes, k)["model"]).values()) for k in range(1, 1 + len(names))]
    return state.program.attached.heads[names[counts.index(min(counts))]].at


def _output(state: TrainState, batch: Batch, path: tuple[str, ...], method: str) -> Any:
    """Returns the shapes of what a submodule's method returns."""
    variables = {"params": state.params["model"]} | {c: v["model"] for c, v in state.statistics.items() if v["model"]}
    inputs = tuple(batch[name] for name in state.program.inputs)
    node: Any = captured_shapes(state.program.attached.model, variables, inputs, {(path, method)}, None, {})
    for name in (*path, method):
        node = node[name]
    if len(node) != 1:
        raise AuxjaxError(f"trunk='taps': {'/'.join(path)!r} is called {len(node)} times; take trunk='shared'")
    return node[0]


def _cut(path: tuple[str, ...], method: str, delta: Any) -> Callable[..., Any]:
    """Returns an interceptor that keeps a submodule's output and passes on the same, without its gradient, plus delta.

    Linen's own way out of remat and scan, `sow`, takes the output along.
    """

    def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        value = function(*args, **kwargs)
        if tuple(context.module.path) != path or context.method_name != method:
            return value
        if jax.tree.map(jnp.shape, value) != jax.tree.map(jnp.shape, delta):
            raise AuxjaxError(f"trunk='taps': {'/'.join(path)!r} lies in an nn.scan; take trunk='shared'")
        context.module.sow("intermediates", _UNCUT, value)
        return jax.tree.map(lambda y, d: jax.lax.stop_gradient(y) + d, value, delta)

    return intercept


def _sown(intermediates: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    node: Any = intermediates
    for name in (*path, _UNCUT):
        node = node[name]
    # nn.remat calls a method twice, once inside the other; the inner one comes first and holds the gradient.
    return node[0]


def _below(passes: Pullbacks, cotangents: list[jax.Array]) -> Any:
    """Returns the gradient of the layers below the cut, and whether it reaches each of their arrays."""
    first = len(passes.values) - len(cotangents)
    parts = [passes.pull(first + i, cotangent)["params"]["model"] for i, cotangent in enumerate(cotangents)]
    reach = [named(reached(passes, first + i)["params"]["model"]) for i in range(len(cotangents))]
    total = named(jax.tree.map(lambda *arrays: sum(arrays), *parts))
    return {name: array for name, array in total.items() if any(r[name] for r in reach)}


def _sum(passes: Pullbacks, pulled: list[Any], below: Mapping[str, jax.Array], weights: jax.Array) -> Any:
    """Returns the model's gradient: what came through the cut plus the weighted sum of what did not."""
    reach = [named(reached(passes, k)["params"]["model"]) for k in range(len(pulled))]
    direct = [named(p["params"]["model"]) for p in pulled]
    result = {}
    for name in direct[0]:
        reaching = [k for k in range(len(pulled)) if reach[k][name]]
        plain = reaching == [0] and name not in below
        parts = [
            direct[k][name] if plain else weights[k].astype(direct[k][name].dtype) * direct[k][name] for k in reaching
        ]
        parts += [below[name]] if name in below else []
        result[name] = sum(parts[1:], start=parts[0]) if parts else jnp.zeros_like(direct[0][name])
    return unnamed(pulled[0]["params"]["model"], result)
