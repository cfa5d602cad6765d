"""One forward pass, the gradient of each of K losses, and one update made of them by a weighting that looks at them.

The gradients of the trunk go to the weighting. A head's own parameters get its own loss's gradient as it is, and so do
the model's parameters that main alone reaches; a layer above a tap gets nothing from the head there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.gradients import Pass, apply, own_weights, psum, shares_of, signals
from auxjax.held_out import held_out, hold_out
from auxjax.pullbacks import Pullbacks, pullbacks, reached
from auxjax.staged import by_loss, heads_own, staged, weighted_sum
from auxjax.state import Batch, TrainState
from auxjax.tap_gradients import tap_gradients
from auxjax.trunk import mains_alone, named, trunk_names, unnamed
from auxjax.weighting.protocol import Signals, Update, gramian_of

# Stands in for a weight of main that is 0, so that what main alone reaches can be divided by it again.
_SMALLEST = 1e-12
# By path: a gradient's arrays, only those that its loss reaches.
Named = Mapping[str, jax.Array]


class Trunk(NamedTuple):
    """By path: the trunk's arrays, those of the model that no head reaches, and whether loss k reaches an array."""

    names: tuple[str, ...]
    mains: set[str]
    reach: tuple[Mapping[str, bool], ...]


class Pulled(NamedTuple):
    """Summed over the devices: K gradients of what is looked at, the heads' own, and weighted sums of the model's.

    Of what main alone reaches, `models` has main's gradient.
    """

    models: Sequence[Named]
    heads: Any
    weighted: Callable[[jax.Array], Named]


def head_gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None = None) -> Pass:
    """One forward pass, K pullbacks, and their combination: its trunk is `program.trunk`.

    "sequential" pullbacks cost each only the layers below their tap, and K gradients of the trunk are kept until they
    are combined, from which the layers between the taps take one weighted sum (`staged`); "vmapped" ones run as one,
    their Gramian is added up array by array, and one more weighted pullback follows.
    """
    program = state.program
    if program.trunk == "taps":
        return tap_gradients(state, batch, key, axis_name)
    batch, held = hold_out(batch) if "held_out" in program.weighting.needs else (batch, None)
    passes = pullbacks(lambda params: losses_of(state, params, batch, key, axis_name), state.params)
    losses = psum(jnp.stack(passes.values), axis_name)
    trunk = find_trunk(program.trunk, passes)
    given = signals(state, losses)
    if held is not None:
        given = given._replace(held_out=held_out(state, trunk.names, batch, held, key, axis_name))
    pulled = (_vmapped if program.pullbacks == "vmapped" else _sequential)(state, passes, trunk, axis_name)
    update, weighting_state = decide(state, _looked_at(given, trunk, pulled.models, program.weighting.needs))
    model = _combined(state.params["model"], trunk, pulled, update)
    statistics, hits = passes.extras
    grads = {"model": model, "heads": pulled.heads}
    return Pass(losses, own_weights(state) * update.weights, weighting_state, grads, statistics, hits)


def resting_gradients(state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None = None) -> Pass:
    """One weighted backward pass under the weights that are held, for the steps that are not due.

    As under `head_gradients`, a head's weight acts on the gradient that goes into its tap, not on its own parameters,
    and main's weight on what a head reaches too.
    """
    rest, scales = state.program.weighting.rest, own_weights(state)
    assert rest is not None
    update, weighting_state = rest.update(signals(state, None), state.weighting_state)
    weights = jnp.broadcast_to(update.weights, scales.shape)
    main = jnp.where(jnp.abs(weights[0]) < _SMALLEST, _SMALLEST, weights[0])
    feedback = {name: weights[k] for k, name in enumerate(state.program.names, start=1)}

    def shares(params: Any) -> tuple[jax.Array, Any]:
        outputs, updates = apply(state, params, state.statistics, batch, key, feedback=feedback)
        values, extras = shares_of(state, batch, outputs, updates, axis_name)
        return jnp.stack(values), extras

    values, pullback, (statistics, hits) = jax.vjp(shares, state.params, has_aux=True)
    (grads,) = pullback((scales.at[0].multiply(main)).astype(values.dtype))
    losses, grads = psum((values, grads), axis_name)
    shared = _trunk_shapes("shared", state, batch, key, axis_name)
    model = {name: x if name in shared else x / main.astype(x.dtype) for name, x in named(grads["model"]).items()}
    grads = {"model": unnamed(grads["model"], model), "heads": grads["heads"]}
    return Pass(losses, scales * weights, weighting_state, grads, statistics, hits)


def losses_of(
    state: TrainState, params: Any, batch: Batch, key: jax.Array, axis_name: str | None
) -> tuple[tuple[jax.Array, ...], Any]:
    """Returns this device's shares of the K losses, one scalar each, and what else the pass leaves."""
    outputs, updates = apply(state, params, state.statistics, batch, key)
    return shares_of(state, batch, outputs, updates, axis_name)


def find_trunk(kind: str, passes: Pullbacks) -> Trunk:
    """Returns the trunk of that kind (`trunk.trunk_names`) for these K losses."""
    reach = tuple(named(tree["model"]) for tree in reached(passes))
    return Trunk(trunk_names(kind, reach), mains_alone(reach), reach)


def trunk_of(program: Any, variables: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    """Returns shapes of the trunk's parameters by path, for `create_state`; `batch` may be of shapes."""

    def trace(variables: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
        statistics = {c: v for c, v in variables.items() if c != "params"}
        state = TrainState(
            step=jnp.zeros((), jnp.int32), params=variables["params"], statistics=statistics, opt_state=(),
            weighting_state=(), ema_params=None, skipped=None, key=jax.random.key(0), program=program,
        )  # fmt: skip
        return _trunk_shapes(program.trunk, state, batch, state.key, None)

    return {} if program.trunk == "taps" else jax.eval_shape(trace, variables, batch)


def _trunk_shapes(
    kind: str, state: TrainState, batch: Batch, key: jax.Array, axis_name: str | None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes of the arrays of the trunk of that kind by path; nothing is computed."""

    def trace(params: Any) -> dict[str, Any]:
        passes = pullbacks(lambda params: losses_of(state, params, batch, key, axis_name), params)
        arrays = named(params["model"])
        return {name: arrays[name] for name in find_trunk(kind, passes).names}

    return jax.eval_shape(trace, state.params)


def _sequential(state: TrainState, passes: Pullbacks, trunk: Trunk, axis_name: str | None) -> Pulled:
    looked_at = trunk.names if state.program.weighting.needs & {"gramian", "gradients"} else ()
    own = {f"model/{name}" for name in trunk.reach[0] if name in looked_at or name in trunk.mains}
    wanted = {name: name in own or name.startswith("heads/") for name in named(state.params)}
    stages = staged(passes, own_weights(state), wanted)
    models = by_loss(stages.rows, "model/", len(passes.values))
    models, heads = psum((models, heads_own(stages.rows, "heads/", state.params["heads"])), axis_name)

    def weighted(weights: jax.Array) -> Named:
        late = psum({name.removeprefix("model/"): x for name, x in stages.weighted(weights).items()}, axis_name)
        reaching = {name: {k: model[name] for k, model in enumerate(models) if name in model} for name in looked_at}
        early = {name: weighted_sum(row, weights) for name, row in reaching.items() if row}
        return {**early, **late}

    return Pulled(models, heads, weighted)


def _vmapped(state: TrainState, passes: Pullbacks, trunk: Trunk, axis_name: str | None) -> Pulled:
    scales = own_weights(state)
    size = len(passes.values)
    stacked = jax.vmap(lambda row: passes.together(tuple(row[k] for k in range(size))))(jnp.diag(scales))
    arrays = named(stacked["model"])
    models = [{n: arrays[n][k] for n in arrays if trunk.reach[k][n]} for k in range(size)]

    def weighted(weights: jax.Array) -> Named:
        """Returns the sums from one more pullback, so that K gradients need not be kept."""
        return psum(named(passes.together(tuple(scales * weights))["model"]), axis_name)

    models, heads = psum((models, jax.tree.map(lambda x: x.sum(0), stacked["heads"])), axis_name)
    return Pulled(models, heads, weighted)


def _looked_at(given: Signals, trunk: Trunk, models: Sequence[Named], needs: frozenset[str]) -> Signals:
    """Adds to the signals what the weighting asks for of the trunk's K gradients."""
    within = [{name: model[name] for name in trunk.names if name in model} for model in models]
    if "gramian" in needs:
        given = given._replace(gramian=gramian_of(within))
    if "gradients" in needs:
        like = {name: models[0][name] for name in trunk.names}
        full = tuple({n: model.get(n, jnp.zeros_like(x)) for n, x in like.items()} for model in within)
        given = given._replace(gradients=full)
    return given


def _combined(like: Any, trunk: Trunk, pulled: Pulled, update: Update) -> Any:
    """Returns the model's gradient: the direction in the trunk, weighted sums elsewhere, main's own as it is."""
    result = {**pulled.weighted(update.weights)}
    for name, array in named(like).items():
        if update.direction is not None and name in trunk.names:
            result[name] = update.direction[name].astype(array.dtype)
        elif name in trunk.mains:
            result[name] = pulled.models[0].get(name, jnp.zeros_like(array))
    return unnamed(like, result)


def decide(state: TrainState, given: Signals) -> tuple[Update, Any]:
    """Returns the weighting's update and new state; nothing that it does is differentiated."""
    constants = jax.tree.map(jax.lax.stop_gradient, given._replace(held_out=None))
    update, new = state.program.weighting.update(constants._replace(held_out=given.held_out), state.weighting_state)
    return update._replace(weights=jnp.broadcast_to(update.weights, own_weights(state).shape)), new
