"""The config: base() has every key, with what turns it into text and back; `check.finalize` refuses what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from auxjax.errors import AuxjaxError, unknown
from auxjax.untrusted import parse

# Sections whose keys belong to what they name: a model's fields, the heads, the parameters of a weighting.
OPEN = ("model", "heads", "weighting")
UNITS = ("steps", "epochs", "examples", "percent")


def durations(prefix: str, **values: float) -> dict[str, float]:
    """Returns `prefix_steps`, `_epochs`, `_examples`, `_percent`, 0 (not set) but for what `values` gives by unit."""
    return {f"{prefix}_{unit}": values.get(unit, 0.0 if unit in ("epochs", "percent") else 0) for unit in UNITS}


def head(at: str, kind: str, **fields: Any) -> dict[str, Any]:
    """Returns a head's entry with every key: where it reads, its kind, loss, target, mask, weight and so on."""
    entry: dict[str, Any] = {
        "at": at, "kind": kind, "loss": "softmax_cross_entropy", "target": "label", "mask": "mask", "weight": 0.3,
        "stop_gradient": False, "label_smoothing": 0.0,
    }  # fmt: skip
    return entry | fields


def base() -> ml_collections.ConfigDict:
    """Returns a locked config with every key and its default."""
    return ml_collections.ConfigDict({
        "seed": 0,  # initial parameters, data order, augmentation and dropout
        "dtype": "float32",  # of the computation; parameters are float32
        "model": {"name": "googlenet", "variant": "bn", "stem": "small"},  # and any field of that model
        "heads": {},  # name -> head(...)
        # Weights to start from, a torchvision checkpoint, and the submodules or heads that keep their initial values.
        "pretrained": {"path": "", "reinitialise": ()},
        "main": {
            "loss": "softmax_cross_entropy", "target": "label", "mask": "mask", "weight": 1.0, "label_smoothing": 0.0,
        },
        "weighting": {"name": "constant"},  # multiplies every head's weight; and that schedule's parameters
        "data": {
            "name": "digits",
            "data_dir": "",  # of TFDS; empty: $TFDS_DATA_DIR, or TFDS's own default
            "batch_size": 128, "eval_batch_size": 500,
            "cache": "device",  # device: the whole set lives on the device; host: Grain reads it from disk
            "validation_examples": 0,  # held out of the training split; evaluated in place of the test split
            "num_workers": 0,  # Grain's processes; 0 reads in threads
            "image_size": 0,  # resized to this if not 0
            "label_noise": 0.0,  # share of training labels that are drawn at random once; needs cache=device
            "augment": {"crop_padding": 0, "flip": False, "mixup": 0.0, "cutout": 0},
        },
        "optimizer": {
            "name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": False,
            "b1": 0.9, "b2": 0.999, "eps": 1e-8,  # of adam, adamw and lamb; b2 and eps of rmsprop
            "weight_decay": 0.0,  # on arrays of two and more axes
            "heads_learning_rate_factor": 1.0,
            "clip_norm": 0.0, "ema_decay": 0.0,  # 0: off
            "accumulate": 1,  # microbatches a step
            "schedule": {"name": "cosine", "floor": 0.0, "every_percent": 30.0, "gamma": 0.1, **durations("warmup")},
        },
        "train": {
            "total_steps": 0, "total_epochs": 10.0, "total_examples": 0,
            **durations("eval", epochs=1.0),
            **durations("log", steps=50),
            **durations("checkpoint", epochs=1.0), "keep_last": 2, "keep_best": 1,
            # A loss or gradient that is not finite: stop, skip that step's update, or rollback to the last checkpoint
            # and go on at half the learning rate.
            "non_finite": "stop",
        },
        "diagnostics": {"names": (), **durations("every")},  # while training: gradient_norm, similarity, variance
        # num_devices 0: all. remat: what the backward pass computes again, to save memory: none, dots (all but
        # matrix products and convolutions), full.
        "parallel": {"mode": "jit", "num_devices": 0, "remat": "none"},
        "writers": {"tensorboard": False, "wandb": False},
    }).lock()  # fmt: skip


def duration(
    config: Mapping[str, Any],
    prefix: str,
    *,
    steps_per_epoch: int,
    batch_size: int,
    total_steps: int,
    required: bool = True,
) -> int:
    """Returns in steps the one of `prefix_steps`, `_epochs`, `_examples`, `_percent` that is not 0.

    Raises AuxjaxError where several are set, or none is and it is `required`; none is 0 steps otherwise.
    """
    keys = [f"{prefix}_{unit}" for unit in UNITS if f"{prefix}_{unit}" in config]
    given = {key: config[key] for key in keys if config[key]}
    if len(given) > 1:
        values = ", ".join(f"{key}={value}" for key, value in given.items())
        raise AuxjaxError(f"{values}: exactly one may be set; set {' or '.join(given)} to 0")
    if not given:
        if required:
            raise AuxjaxError(f"set one of {', '.join(keys)}")
        return 0
    ((key, value),) = given.items()
    if not 0 < value < math.inf:
        raise AuxjaxError(f"{key}={value} must be positive, or 0 where another unit is set")
    scale = {"steps": 1, "epochs": steps_per_epoch, "examples": 1 / batch_size, "percent": total_steps / 100}
    return max(round(value * scale[key.removeprefix(f"{prefix}_")]), 1)


def is_on(value: Any, off: float = 0.0) -> bool:
    """Returns whether what a number switches is there: always where the number is an argument of a compiled program."""
    return isinstance(value, jax.Array) or value != off


def due(step: int, every: int, total: int) -> bool:
    """Returns whether something done every `every` steps is done after `step` (counted from 1): also at the last."""
    return step % every == 0 or step == total


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `{"a.b": value}` of a nested config; an empty section stands for itself."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping | ml_collections.ConfigDict) and len(value)
        flat.update(flatten(value, f"{prefix}{key}.") if nested else {prefix + key: value})
    return flat


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns "key: old -> new" for every key in which two configs differ, on one line; empty if there is none."""
    a, b = flatten(old), flatten(new)
    keys = [key for key in {**a, **b} if a.get(key, "absent") != b.get(key, "absent")]
    return ", ".join(f"{key}: {a.get(key, 'absent')!r} -> {b.get(key, 'absent')!r}" for key in keys)


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the config as JSON, keys in their order; tuples become lists, and from_json gives them back."""
    return json.dumps(config.to_dict(), indent=1) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """Returns the locked config that to_json wrote; raises AuxjaxError where `text` is no JSON object."""
    try:
        loaded = parse(text)
        if not isinstance(loaded, dict):
            raise ValueError("not an object")
        return ml_collections.ConfigDict(tuples(loaded)).lock()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "not a config"
        raise AuxjaxError(f"config.json is no JSON ({where}): it was damaged, or edited by hand") from None


def plain(value: Any) -> Any:
    """Returns nested configs as dicts."""
    if isinstance(value, Mapping | ml_collections.ConfigDict):
        return {key: plain(v) for key, v in value.items()}
    return value


def tuples(value: Any) -> Any:
    """Returns what JSON made of a config with its lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: tuples(v) for key, v in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


def is_smoke(argument: str) -> bool:
    """Returns whether a config file's argument, what follows its colon, is `smoke`; raises AuxjaxError for another."""
    if argument not in ("", "smoke"):
        raise unknown("config argument", argument, ("smoke",))
    return argument == "smoke"


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config shrunk to seconds: embedded digits, small batches, four steps, every kind of work once."""
    config.dtype = "float32"  # a CPU runs bfloat16 slowly
    config.data.update(name="digits", batch_size=16, eval_batch_size=355, validation_examples=0, num_workers=0)
    config.data.image_size = 0
    config.train.update(total_steps=4, total_epochs=0.0, total_examples=0)
    for prefix, steps in (("eval", 2), ("checkpoint", 2), ("log", 1)):
        config.train.update(durations(prefix, steps=steps))
    config.optimizer.schedule.update(durations("warmup", steps=1))
    return config
