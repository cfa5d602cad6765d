"""Weights decided on the gradients at the shallowest tap, so that the layers below it are passed through once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError
from auxjax.gradients import Pass, apply, own_weights, psum, shares_of, signals
from auxjax.pullbacks import pullbacks, reached
from auxjax.staged import by_loss, heads_own, staged
from auxjax.state import Batch, TrainState
from auxjax.taps import captured_shapes, parse
from auxjax.trunk import mains_alone, named, unnamed
from auxjax.weighting.protocol import gramian_of


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

    def moved_losses(primal: Any) -> tuple[tuple[jax.Array, ...], Any]:
        with nn.intercept_methods(_moved(path, method, primal["tap"])):
            outputs, updates = apply(state, primal["params"], state.statistics, batch, key)
        return shares_of(state, batch, outputs, updates, axis_name)

    primal = {"params": state.params, "tap": delta}
    passes = pullbacks(moved_losses, primal)
    mains = mains_alone([named({"params": {"model": tree["params"]["model"]}}) for tree in reached(passes)])
    wanted = {name: not name.startswith("params/model/") or name in mains for name in named(primal)}
    scales = own_weights(state)
    losses = psum(jnp.stack(passes.values), axis_name)
    stages = staged(passes, scales, wanted)
    gramian = psum(gramian_of(by_loss(stages.rows, "tap", len(scales))), axis_name)
    given = signals(state, losses)._replace(gramian=gramian)
    update, weighting_state = weighting.update(jax.lax.stop_gradient(given), state.weighting_state)
    weights = jnp.broadcast_to(update.weights, scales.shape)
    model = {name: jnp.zeros_like(array) for name, array in named(state.params["model"]).items()}
    model |= by_loss(stages.rows, "params/model/", 1)[0]
    model |= {name.removeprefix("params/model/"): array for name, array in stages.weighted(weights).items()}
    grads = {
        "model": unnamed(state.params["model"], model),
        "heads": heads_own(stages.rows, "params/heads/", state.params["heads"]),
    }
    statistics, hits = passes.extras
    return Pass(losses, scales * weights, weighting_state, psum(grads, axis_name), statistics, hits)


def _shallowest(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None) -> str:
    """Returns the tap of the head whose gradient reaches the fewest arrays of the model."""

    def losses(params: Any) -> tuple[tuple[jax.Array, ...], Any]:
        outputs, updates = apply(state, params, state.statistics, batch, key)
        return shares_of(state, batch, outputs, updates, axis_name)

    passes = pullbacks(losses, state.params)
    names = state.program.names
    if not names:
        raise AuxjaxError("trunk='taps' needs a head that is trained: give one a weight, or take trunk='shared'")
    counts = [sum(named(tree["model"]).values()) for tree in reached(passes)[1:]]
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


def _moved(path: tuple[str, ...], method: str, delta: Any) -> Callable[..., Any]:
    """Returns an interceptor that adds delta, of zeros, to a submodule's output: its gradient is the output's."""

    def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        value = function(*args, **kwargs)
        if tuple(context.module.path) != path or context.method_name != method:
            return value
        if jax.tree.map(jnp.shape, value) != jax.tree.map(jnp.shape, delta):
            raise AuxjaxError(f"trunk='taps': {'/'.join(path)!r} lies in an nn.scan; take trunk='shared'")
        return jax.tree.map(jnp.add, value, delta)

    return intercept
