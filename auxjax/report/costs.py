"""What an arm's network costs: parameters and FLOPs with heads and without, counted from the config; nothing is run."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from auxjax import build, flops
from auxjax import config as configs
from auxjax.attach import strip
from auxjax.head_gradients import trunk_of
from auxjax.step import create_state, train_step

logger = logging.getLogger("auxjax")


class Costs(NamedTuple):
    """Counts of one arm; FLOPs are of convolutions and matrix products for one example, a multiply-add two."""

    train_params: int
    stripped_params: int
    train_flops: float
    stripped_flops: float
    batch_size: int


def count(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> Costs | None:
    """Returns the costs of a run's nested config on the data that its dataset.json describes; None where unknown.

    Configs that train the same program are counted once. None where there is no dataset.json, or where the config
    names what this version does not have.
    """
    if not dataset or not isinstance(config.get("heads"), Mapping) or "batch_size" not in config.get("data", {}):
        return None
    full = {key: configs.plain(value) for key, value in configs.base().items()}
    for key in ("model", "heads", "main", "weighting", "optimizer", "dtype", "parallel"):
        given = config.get(key, full[key])
        full[key] = full[key] | given if isinstance(given, dict) and key not in configs.OPEN else given
    full["data"]["batch_size"] = config["data"]["batch_size"]
    # How large a weight is changes no count; whether it is 0 does.
    full["heads"] = {
        name: {**head, "weight": float(head["weight"] != 0)} if isinstance(head.get("weight"), int | float) else head
        for name, head in full["heads"].items()
    }
    return _count(json.dumps(full), json.dumps([dataset.get("num_classes"), dataset.get("image_shape")]))


@functools.lru_cache(maxsize=256)
def _count(config: str, dataset: str) -> Costs | None:
    # A config may be of another version, or name a model of the user's own: a report goes on without its costs.
    try:
        return _of_program(ml_collections.ConfigDict(configs.tuples(json.loads(config))), *json.loads(dataset))
    except Exception as error:
        logger.warning("parameters and FLOPs are left out: %s: %s", type(error).__name__, error)
        return None


def _of_program(config: Any, classes: int, shape: Sequence[int]) -> Costs:
    batch_size = config.data.batch_size
    # The length of training changes the learning rate alone, which is no convolution.
    program = build.program(config, classes, 1, 1)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(program.attached.init, key, image)
    bare = strip(variables)
    batch: dict[str, Any] = {
        "image": jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((batch_size,), jnp.float32),
    }
    looks_back = program.weighting.needs & {"gramian", "gradients", "held_out"}
    trunk = trunk_of(program, variables, batch) if looks_back else None
    state = jax.eval_shape(lambda v, k: create_state(program, v, k, trunk), variables, key)
    stripped = flops.count(lambda v, x: program.attached.model.apply(v, x, train=False), bare, image)
    return Costs(
        train_params=_size(variables["params"]), stripped_params=_size(bare["params"]),
        train_flops=sum(flops.count(train_step, state, batch).values()) / batch_size,
        stripped_flops=sum(stripped.values()), batch_size=batch_size,
    )  # fmt: skip


def _size(params: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
