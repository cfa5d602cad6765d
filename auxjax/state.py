"""What a training step is made of: its program, which is hashable, and the state that it reads and changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.heads import Head
from auxjax.weighting.protocol import CONSTANT, Weighting

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

# What the backward pass computes again in place of keeping it: nothing, all but matrix products and convolutions, all.
REMAT = ("none", "dots", "full")


class Main(NamedTuple):
    """The loss on the model's own output, as a Head has it for a tap."""

    loss: Any = "softmax_cross_entropy"
    target: str = "label"
    mask: str = "mask"
    label_smoothing: float = 0.0


class Program(NamedTuple):
    """What a training step does apart from the numbers in its state; hashable: equal programs share a compile."""

    attached: Attached
    main: Main
    names: tuple[str, ...]
    weights: Callable[[jax.Array], jax.Array]  # progress -> float32[K], main's and the heads' own weights
    optimizer: optax.GradientTransformation
    total_steps: int
    weighting: Weighting = CONSTANT
    trunk: str = "shared"
    pullbacks: str = "sequential"
    learning_rate: Callable[[jax.Array], Any] | None = None  # by step, for a weighting that looks ahead
    accumulate: int = 1
    ema_decay: float = 0.0
    inputs: tuple[str, ...] = ("image",)
    remat: str = "none"  # one of REMAT
    skips: bool = False  # leaves out the update of a step with a loss or gradient that is not finite

    @property
    def objectives(self) -> dict[str, Main | Head]:
        """The K losses in order, main first, then the heads that are trained (a head of weight 0 is not)."""
        return {"main": self.main} | {name: self.attached.heads[name] for name in self.names}


class TrainState(struct.PyTreeNode):
    """Everything that a step reads and changes; each collection has the halves `model` and `heads`."""

    step: jax.Array
    params: Any
    statistics: Any  # every collection but the parameters, BatchNorm's averages for one
    opt_state: Any
    weighting_state: Any
    ema_params: Any  # None without EMA
    skipped: Any  # int32 counts by the loss that was not finite, and in a row; None where the program does not skip
    key: jax.Array
    program: Program = struct.field(pytree_node=False)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to evaluate and ship: the averaged parameters where there are any."""
        return {"params": self.params if self.ema_params is None else self.ema_params} | dict(self.statistics)


def create_state(program: Program, variables: Mapping[str, Any], key: jax.Array, trunk: Any = None) -> TrainState:
    """Returns the state before the first step, from the variables of `program.attached.init`.

    `trunk` is what `head_gradients.trunk_of` gives, needed where the weighting keeps gradients in its state. Raises
    AuxjaxError for a weighting that cannot have its signals from microbatches.
    """
    if program.accumulate > 1 and program.weighting.needs:
        raise AuxjaxError(
            f"accumulate={program.accumulate} cannot serve a weighting that needs {set(program.weighting.needs)}"
        )
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics={collection: value for collection, value in variables.items() if collection != "params"},
        opt_state=program.optimizer.init(params),
        weighting_state=jax.tree.map(_strong, program.weighting.init(("main", *program.names), trunk)),
        ema_params=jax.tree.map(jnp.copy, params) if program.ema_decay else None,
        skipped=_no_skips(program) if program.skips else None,
        key=key,
        program=program,
    )


def _no_skips(program: Program) -> dict[str, Any]:
    counts = {name: jnp.zeros((), jnp.int32) for name in (*program.objectives, "gradient", "total")}
    return {"counts": counts, "in_a_row": jnp.zeros((), jnp.int32)}


def _strong(array: jax.Array) -> jax.Array:
    """Returns a copy of the array without JAX's weak type, that of Python's numbers, which a step would not give back.

    A weighting may begin with one array in several places, and a step whose state is donated takes each only once.
    """
    return array if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else jnp.array(array, array.dtype)
