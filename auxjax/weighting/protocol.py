"""What a weighting is: a pair of pure functions that turns K losses, and gradients where it asks, into one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError

# What a weighting may ask for beside the step and the progress.
NEEDS = ("losses", "gramian", "gradients", "held_out", "losses_after")


class HeldOut(NamedTuple):
    """Main's loss on examples that this step does not train on, as functions of a trunk gradient d.

    `gradient(d) -> (loss float32, tree)` is that loss and its trunk gradient at the trunk's parameters less
    `learning_rate` d, the trunk as it is where d is None. `hessian(w, v) -> tree` is the Hessian, by the trunk, of the
    K training losses weighted by w float32[K], times v. All are constants to autodiff.
    """

    gradient: Callable[[Any], tuple[jax.Array, Any]]
    hessian: Callable[[jax.Array, Any], Any]
    learning_rate: jax.Array


class Signals(NamedTuple):
    """What a weighting may look at, constants to autodiff; None is what its `needs` do not name.

    `step` int32, `progress` float32 in [0, 1], `key` a PRNG key of this step's own, `losses` float32[K], `gramian`
    float32[K, K] with the inner products of the K trunk gradients, `gradients` the K trees themselves, main first,
    zero where a loss does not reach. Losses and gradients are already multiplied by the heads' own weights.
    `losses_after` float32[K] is given to `finish` alone.
    """

    step: jax.Array
    progress: jax.Array
    key: jax.Array | None = None
    losses: jax.Array | None = None
    gramian: jax.Array | None = None
    gradients: tuple[Any, ...] | None = None
    held_out: HeldOut | None = None
    losses_after: jax.Array | None = None


class Update(NamedTuple):
    """What a weighting decides: weights float32[K], and a trunk gradient where it is not their weighted sum."""

    weights: jax.Array
    direction: Any = None


def no_state(names: tuple[str, ...], trunk: Any) -> tuple[()]:
    """Returns the state of a weighting that has none."""
    return ()


class Rest(NamedTuple):
    """The steps between two decisions: `due(signals, state)` says whether to decide, `update` holds what was decided.

    Both know the step alone, so that a step that is not due costs no more than a plain one.
    """

    due: Callable[[Signals, Any], jax.Array]
    update: Callable[[Signals, Any], tuple[Update, Any]]


class Weighting(NamedTuple):
    """`init(names, trunk) -> state` and `update(signals, state) -> (Update, state)`, main first.

    `names` are those of the K losses and `trunk` is the tree of the trunk's parameters, for states that hold gradients.
    The state is a pytree of arrays that is saved, resumed, vmapped and scanned with the training state, and keeps its
    shapes and dtypes. Main's weight is 1 by convention. `needs` names the signals without which `update` cannot run;
    `finish(signals, state) -> state`, where there is one, runs after the step on `losses_after`, and `rest` in place of
    `update` at the steps that are not due.
    """

    init: Callable[[tuple[str, ...], Any], Any]
    update: Callable[[Signals, Any], tuple[Update, Any]]
    needs: frozenset[str] = frozenset()
    finish: Callable[[Signals, Any], Any] | None = None
    rest: Rest | None = None


def _ones(signals: Signals, state: Any) -> tuple[Update, Any]:
    # Of the losses only the count is known without asking for them: a scalar multiplies all K alike.
    return Update(jnp.ones((), jnp.float32)), state


# Leaves the heads' own weights as they are.
CONSTANT = Weighting(no_state, _ones)


class Method(NamedTuple):
    """A row of the registry: how a weighting is made, where it is published, and which promises it keeps.

    `source` is the paper with its section or equation; `peers` says which libraries have it, and which of them differ;
    `more_cost` is what a step costs beside what its needs say.
    """

    make: Callable[..., Weighting]
    source: str
    promises: frozenset[str] = frozenset()
    peers: str = ""
    more_cost: str = ""


# Each has a property test that runs on every method that claims it. d is the trunk's gradient, subtracted by the step.
PROMISES = {
    "main_first": "g_main . d >= 0: main's loss does not rise, to first order",
    "all_descend": "g_k . d >= 0 for every k: no loss rises, to first order",
    "scale_invariant": "multiplying one loss by a positive number does not turn d",
    "symmetric": "permuting all the losses permutes the weights",
    "heads_symmetric": "permuting the auxiliary losses permutes their weights",
    "main_one": "main's weight is 1",
    "sum_k": "the weights sum to K",
    "sum_one": "the weights sum to 1",
}


def inner(a: Any, b: Any) -> jax.Array:
    """Returns the inner product of two trees of one structure, in float32 or wider."""

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        # Accelerators round the factors of a float32 product to fewer bits unless asked not to.
        return jnp.vdot(x.astype(wide), y.astype(wide), precision="highest")

    products = jax.tree.leaves(jax.tree.map(product, a, b))
    return sum(products, start=jnp.zeros((), jnp.float32))


def combine(weights: jax.Array, gradients: Sequence[Any]) -> Any:
    """Returns sum_k weights[k] gradients[k], in the gradients' own dtypes."""
    if len(gradients) != len(weights):
        raise AuxjaxError(f"{len(weights)} weights do not fit {len(gradients)} gradients")
    return jax.tree.map(lambda *g: sum(w.astype(x.dtype) * x for w, x in zip(weights, g, strict=True)), *gradients)


def gramian_of(gradients: Sequence[Any]) -> jax.Array:
    """Returns [K, K], the inner products of K trees, or of K dicts, whose missing arrays are zero."""
    size = len(gradients)
    rows = [
        [_common(gradients[i], gradients[j]) if i <= j else jnp.zeros(()) for j in range(size)] for i in range(size)
    ]
    upper = jnp.stack([jnp.stack(row) for row in rows])
    return upper + upper.T - jnp.diag(jnp.diag(upper))


def _common(a: Any, b: Any) -> jax.Array:
    if isinstance(a, dict) and isinstance(b, dict):
        return inner({k: a[k] for k in a if k in b}, {k: b[k] for k in b if k in a})
    return inner(a, b)
