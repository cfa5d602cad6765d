"""Whether inference with heads attached is, for a compiler, the very program of the model that never had any."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from auxjax import ops
from auxjax.parallel import AXIS, Layout
from auxjax.preflight.compile import finish
from auxjax.preflight.steps import Step
from auxjax.taps import method_of, mode_flags

# Where in the source an instruction comes from, which differs between two functions of the same program.
_SOURCE = re.compile(
    r", metadata=\{[^}]*\}|, frontend_attributes=\{[^}]*\}|^HloModule [^,]*"
    r"|(?<=[(, ])[\w.\-]+: (?=[a-z]\w*\[|\()"  # arguments
    r"|^(?:FileNames|FunctionNames|FileLocations|StackFrames)\n(?:\d+ .*\n)*",
    re.MULTILINE,
)
# Some are made of the names of arguments.
_NAME = re.compile(r"%[\w.\-]+")


def same_inference(step: Step, where: Layout) -> bool:
    """Returns whether both programs, compiled for an image a device, have the same text, all names apart."""
    attached = step.program.attached
    flags = mode_flags(method_of(attached.model, None), False, {})
    whole, split = NamedSharding(where.mesh, PartitionSpec()), NamedSharding(where.mesh, PartitionSpec(AXIS))
    image = jax.ShapeDtypeStruct((len(where.devices), *step.image_shape), jnp.float32, sharding=split)
    halves = {"params": step.state.params, **step.state.statistics}
    halves = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), halves)
    bare = {name: value["model"] for name, value in halves.items() if value["model"]}

    def with_heads(variables: Any, image: jax.Array) -> Any:
        return attached.apply(variables, image, train=False)["main"]

    def without(variables: Any, image: jax.Array) -> Any:
        return attached.model.apply(variables, image, **flags)

    return _text(with_heads, halves, image, where) == _text(without, bare, image, where)


def _text(function: Any, variables: Any, image: Any, where: Layout) -> str:
    if where.devices[0].platform == "cpu":
        lowered = jax.jit(function).lower(variables, image)
    else:
        with ops.library_form():
            lowered = jax.jit(function).lower(variables, image)
    return normalised(finish(lowered, where).as_text() or "")


def normalised(text: str) -> str:
    """Returns a compiled program's text without its sources, its instructions named by order of appearance."""
    text = _SOURCE.sub("", text)
    names = dict.fromkeys(_NAME.findall(text))
    table = {name: f"%{i}" for i, name in enumerate(names)}
    return _NAME.sub(lambda match: table[match[0]], text)
