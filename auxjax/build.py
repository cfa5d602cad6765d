"""From a finished config to the things it names: model, heads, the program of a step, and all that a loop needs."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from auxjax import batches, data, metrics, ops, optimizer, parallel, weighting
from auxjax import config as configs
from auxjax.attach import attach, strip
from auxjax.head_gradients import trunk_of
from auxjax.heads import HEADS, Head, cost
from auxjax.models import MODELS
from auxjax.parallel import Layout
from auxjax.pretrained import import_weights
from auxjax.step import Main, Program, TrainState, create_state

logger = logging.getLogger("auxjax")

_HEAD_KEYS = ("at", "loss", "target", "mask", "weight", "stop_gradient", "label_smoothing")


class Setup(NamedTuple):
    """All that a loop needs: the first state, compiled functions, where batches come from, how often to do what.

    `train_step(state, resident, inputs) -> (state, metrics)` and `eval_step(state, resident, inputs) -> sums` take what
    `parallel` placed; `example` is an image batch of 2 to prove a stripped tree on.
    """

    program: Program
    where: Layout
    state: TrainState
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    dataset: data.DataSet
    pipeline: data.Pipeline
    total_steps: int
    every: Mapping[str, int]
    example: jax.Array

    @property
    def eval_split(self) -> str:
        """What is evaluated while training: the validation split where one is held out."""
        return "validation" if "validation" in self.dataset.splits else "test"


def model(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Returns the bare model of a finished config."""
    fields = dict(config["model"])
    return MODELS[fields.pop("name")](num_classes=num_classes, dtype=jnp.dtype(config["dtype"]), **fields)


def heads(config: Mapping[str, Any], num_classes: int) -> dict[str, Head]:
    """Returns the heads of a finished config; each predicts the classes unless it sets `num_classes` of its own."""
    built = {}
    for name, entry in config["heads"].items():
        fields = dict(entry)
        own = {key: fields.pop(key) for key in _HEAD_KEYS}
        module = HEADS[fields.pop("kind")](**{"num_classes": num_classes, "dtype": jnp.dtype(config["dtype"])} | fields)
        built[name] = Head(module=module, **own)
    return built


def program(config: Mapping[str, Any], num_classes: int, steps_per_epoch: int, total_steps: int) -> Program:
    """Returns the program of a training step; configs that differ by seed alone share one, and so one compilation."""
    keys = ("model", "heads", "main", "weighting", "optimizer", "dtype", "parallel")
    part = {key: config[key] for key in keys if key in config} | {"data": {"batch_size": config["data"]["batch_size"]}}
    part["train"] = {"non_finite": config["train"].get("non_finite", "stop")}
    return _program(json.dumps(configs.plain(part)), num_classes, steps_per_epoch, total_steps)


def assemble(config: Mapping[str, Any], num_classes: int, steps_per_epoch: int, total_steps: int) -> Program:
    """Returns the program of a training step, anew; numbers in the config may be arguments of a compiled function."""
    attached = attach(model(config, num_classes), heads(config, num_classes))
    main = dict(config["main"])
    head_weights = {name: head.weight for name, head in attached.heads.items()}
    chosen = weighting.choose(config["weighting"])
    dropped = weighting.dropped(chosen.schedule, head_weights)
    weights = {name: weight for name, weight in head_weights.items() if name not in dropped}
    sizes = (total_steps, steps_per_epoch, config["data"]["batch_size"])
    return Program(
        attached=attached,
        names=tuple(weights),
        weights=weighting.own_weights(chosen.schedule, weights, main_weight=main.pop("weight")),
        weighting=chosen.weighting,
        trunk=chosen.trunk,
        pullbacks=chosen.pullbacks,
        main=Main(**main),
        optimizer=optimizer.make(config["optimizer"], *sizes),
        learning_rate=optimizer.learning_rate(config["optimizer"], *sizes),
        total_steps=total_steps,
        accumulate=config["optimizer"]["accumulate"],
        ema_decay=config["optimizer"]["ema_decay"],
        remat=config.get("parallel", {}).get("remat", "none"),  # runs of earlier versions have none
        skips=config["train"].get("non_finite") == "skip",
    )


def setup(config: Any) -> Setup:
    """Returns all that training a finished config needs; raises AuxjaxError for data and devices that do not serve."""
    dataset = data.load(config.data)
    where = parallel.layout(config.parallel.mode, config.parallel.num_devices)
    parallel.check_batch_size(where, config.data.batch_size, config.optimizer.accumulate)
    rows = functools.partial(parallel.local_rows, where)
    pipeline = data.open_pipeline(dataset, config.data, config.seed, len(where.devices), rows)
    steps_per_epoch, total_steps, every = lengths(config, dataset)
    built = program(config, dataset.num_classes, steps_per_epoch, total_steps)
    state = initial_state(built, config, dataset)
    train_function, eval_function = batches.functions(built, where, batches.batch_spec(config, dataset))
    return Setup(
        program=built, where=where, state=state, train_step=train_function, eval_step=eval_function, dataset=dataset,
        pipeline=pipeline, total_steps=total_steps, every=every,
        example=proof_example(dataset),
    )  # fmt: skip


def proof_example(dataset: data.DataSet) -> jax.Array:
    """Returns a batch of 2 images to prove a stripped tree on, float32[2, H, W, C]."""
    return jax.random.normal(jax.random.key(0), (2, *dataset.image_shape))


def lengths(config: Any, dataset: data.DataSet) -> tuple[int, int, dict[str, int]]:
    """Returns the steps of an epoch and of the whole training, and how often it does what."""
    steps_per_epoch = len(dataset.splits["train"]) // config.data.batch_size
    sizes = {"steps_per_epoch": steps_per_epoch, "batch_size": config.data.batch_size}
    total_steps = configs.duration(config.train, "total", total_steps=0, **sizes)
    sizes["total_steps"] = total_steps
    every = {k: configs.duration(config.train, k, **sizes) for k in ("eval", "log", "checkpoint")}
    every["diagnostics"] = configs.duration(config.diagnostics, "every", required=False, **sizes)
    return steps_per_epoch, total_steps, every


def initial_state(built: Program, config: Any, dataset: data.DataSet) -> TrainState:
    """Returns the state before the first step: parameters by seed, or imported where the config says so."""
    key = jax.random.key(config.seed)
    image = jnp.zeros((1, *dataset.image_shape), jnp.float32)
    variables = _init(built)(jax.random.fold_in(key, 0), image)
    if config.pretrained.path:
        given = config.pretrained
        variables, report = import_weights(given.path, built.attached, variables, reinitialise=given.reinitialise)
        logger.info("%s", report)
    return create_state(built, variables, jax.random.fold_in(key, 1), _trunk(built, variables, config, dataset))


def cost_table(setup: Setup) -> str:
    """Returns a line for the model and one for each head: where it sits, its parameters and forward FLOPs an image."""
    image = jax.ShapeDtypeStruct((1, *setup.dataset.image_shape), jnp.float32)
    attached = setup.program.attached
    rows = [("main", "", cost(attached.model, image))]
    bare = jax.eval_shape(strip, {"params": setup.state.params, **setup.state.statistics})
    for name, shape in attached.tap_shapes(bare, image).items():
        rows.append((name, attached.heads[name].at, cost(attached.heads[name].module, shape)))
    return "\n".join(
        f"{name:<8} {at:<16} {c['params']:>12,} parameters {c['flops'] / 1e6:>10.2f} MFLOP" for name, at, c in rows
    )


def first_batch(setup: Setup) -> dict[str, jax.Array]:
    """Returns the first training batch, not augmented, leaving the pipeline where it was."""
    position = setup.pipeline.state()
    inputs = next(setup.pipeline)
    setup.pipeline.restore(position)
    spec = data.BatchSpec(setup.dataset.num_classes, setup.dataset.mean, setup.dataset.std)
    return data.to_batch(setup.pipeline.resident("train"), inputs, spec)


def evaluate(setup: Setup, state: Any, resident: Any, split: str) -> dict[str, float]:
    """Returns loss/name and accuracy/name of main and every head over the whole split, from sums and exact counts."""
    totals: dict[str, dict[str, float]] = {}
    for inputs in setup.pipeline.evaluation(split):
        placed = parallel.place_batch(setup.where, inputs)
        sums = parallel.fetch_metrics(setup.where, setup.eval_step(state, resident, placed))
        for name, values in sums.items():
            total = totals.setdefault(name, dict.fromkeys(values, 0.0))
            totals[name] = {key: total[key] + float(value) for key, value in values.items()}
    return metrics.scores(totals)


def evaluate_bare(config: Any, bare: nn.Module, variables: Any, split: str) -> dict[str, float]:
    """Returns loss/main and accuracy/main of a model that has no heads, over the whole split."""
    dataset = data.load(config.data)
    pipeline = data.open_pipeline(dataset, config.data, 0)
    main = {key: value for key, value in config.main.items() if key != "weight"}
    built = Program(
        attach(bare, {}), Main(**main), (), weighting.own_weights({"name": "constant"}, {}), optax.identity(), 1
    )
    where = parallel.layout("jit", 1)
    eval_function = batches.functions(built, where, batches.batch_spec(config, dataset))[1]
    halves = {collection: {"model": value, "heads": {}} for collection, value in variables.items()}
    state = create_state(built, {"params": {"model": {}, "heads": {}}} | halves, jax.random.key(0))
    setup = Setup(built, where, state, eval_function, eval_function, dataset, pipeline, 1, {}, jnp.zeros(()))
    resident = parallel.place_resident(where, pipeline.resident(split))
    return evaluate(setup, parallel.place_state(where, state), resident, split)


@functools.lru_cache(maxsize=16)
def _program(config_json: str, num_classes: int, steps_per_epoch: int, total_steps: int) -> Program:
    return assemble(configs.tuples(json.loads(config_json)), num_classes, steps_per_epoch, total_steps)


def _trunk(built: Program, variables: Any, config: Any, dataset: data.DataSet) -> Any:
    """Returns the parameters that a weighting's state may be as large as; raises AuxjaxError for a trunk of none."""
    if not built.weighting.needs & {"gramian", "gradients", "held_out"}:
        return None
    size = config.data.batch_size
    inputs = {"image": jnp.zeros((size, *dataset.image_shape), jnp.float32), "label": jnp.zeros(size, jnp.int32)}
    return trunk_of(built, variables, inputs)


@functools.lru_cache(maxsize=16)
def _init(built: Program) -> Callable[..., Any]:
    return ops.fast_init(built.attached.init)
