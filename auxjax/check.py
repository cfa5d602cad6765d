"""finalize(): refuses a config that could not run, in one line and before anything compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from auxjax.config import base, duration, flatten, head
from auxjax.errors import AuxjaxError, nearest, unknown
from auxjax.heads import HEADS
from auxjax.losses import LOSSES
from auxjax.models import MODELS
from auxjax.optimizer import OPTIMIZERS, SCHEDULES
from auxjax.parallel import MODES
from auxjax.weighting import WEIGHTINGS, make, schedule

DTYPES = ("float32", "bfloat16", "float16", "float64")
CACHES = ("device", "host")
# Sections whose keys belong to what they name: a model's fields, the heads, a schedule's parameters.
_OPEN = ("model", "heads", "weighting")
_NOT_FOR_CONFIGS = ("parent", "name", "num_classes", "dtype", "param_dtype", "axis_name")


def finalize(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns a checked, complete, locked copy of `config`; raises AuxjaxError for anything that could not run."""
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    reference = base().to_dict()
    _check_keys(given, reference, "config")
    given["model"] = _model(given["model"])
    given["heads"] = {name: _head(name, dict(entry)) for name, entry in given["heads"].items()}
    _check_names(given)
    _check_ranges(given)
    for prefix, section in (("total", "train"), ("eval", "train"), ("log", "train"), ("checkpoint", "train")):
        duration(given[section], prefix, steps_per_epoch=1, batch_size=1, total_steps=100)
    duration(given["optimizer"]["schedule"], "warmup", steps_per_epoch=1, batch_size=1, total_steps=100, required=False)
    return ml_collections.ConfigDict(given).lock()


def _check_keys(given: dict[str, Any], reference: Mapping[str, Any], where: str) -> None:
    for key in given:
        if key not in reference:
            raise unknown(
                "config key",
                f"{where}.{key}".removeprefix("config."),
                [f"{where}.{k}".removeprefix("config.") for k in reference],
            )
    lost = [key for key in reference if key not in given]
    if lost:
        raise AuxjaxError(
            f"{where} lost its keys {', '.join(lost)}: set single keys, as in {where}.{lost[0]}=..., not the whole section"
        )
    for key, default in reference.items():
        if where == "config" and key in _OPEN:
            if not isinstance(given[key], Mapping):
                raise AuxjaxError(f"config.{key} must be a dict, not {given[key]!r}")
        elif isinstance(default, Mapping):
            if not isinstance(given[key], Mapping):
                raise AuxjaxError(f"{where}.{key} is a section, not {given[key]!r}; its keys: {', '.join(default)}")
            _check_keys(given[key], default, f"{where}.{key}")
        else:
            given[key] = _typed(given[key], default, f"{where}.{key}")


def _typed(value: Any, default: Any, where: str) -> Any:
    """Returns `value` as the default's type; commas split where that is a tuple, since flags give ('a,b',)."""
    if isinstance(default, tuple):
        items = value if isinstance(value, tuple | list) else (value,)
        items = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
        kind = type(default[0]) if default else str
        try:
            return tuple(kind(item) for item in items)
        except ValueError:
            raise AuxjaxError(f"{where}={value!r} must be {kind.__name__}s") from None
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and (type(value) is not type(default)):
        raise AuxjaxError(f"{where}={value!r} must be {type(default).__name__}, not {type(value).__name__}")
    return value


def _model(entry: Mapping[str, Any]) -> dict[str, Any]:
    entry = dict(entry)
    name = entry.get("name", "")
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return {
        "name": name,
        **_fields(MODELS[name], {k: v for k, v in entry.items() if k != "name"}, f"model {name!r}", _NOT_FOR_CONFIGS),
    }


def _head(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    for key in ("at", "kind"):
        if key not in entry:
            raise AuxjaxError(
                f"head {name!r} has no {key!r}: heads.{name} needs at= (a tap) and kind= ({', '.join(sorted(HEADS))})"
            )
    if entry["kind"] not in HEADS:
        raise unknown(f"kind of head {name!r}", entry["kind"], HEADS)
    common = head("", "")
    full = head(**entry)
    own = {key: value for key, value in full.items() if key not in common}
    allowed = [n for n in _NOT_FOR_CONFIGS if n != "num_classes"]
    own = _fields(HEADS[entry["kind"]], own, f"head {name!r}", allowed, also=common)
    for key in ("at", "loss", "target", "mask"):
        _typed(full[key], "", f"heads.{name}.{key}")
    weight, stop = full["weight"], full["stop_gradient"]
    if isinstance(weight, Mapping):
        schedule(weight, f"weight of head {name!r}")
        full["weight"] = dict(weight)
    else:
        full["weight"] = _typed(weight, 0.0, f"heads.{name}.weight")
    if not isinstance(stop, bool) and not (
        isinstance(stop, Mapping) and list(stop) in (["from_steps"], ["until_steps"])
    ):
        raise AuxjaxError(
            f"heads.{name}.stop_gradient={stop!r} must be True, False, {{'from_steps': n}} or {{'until_steps': n}}"
        )
    return {key: full[key] for key in common} | own


def _fields(
    kind: type, given: Mapping[str, Any], what: str, hidden: Iterable[str], also: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns `given` checked against the fields of a module's class."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in hidden}
    checked = {}
    for key, value in given.items():
        if key not in fields:
            raise AuxjaxError(
                f"unknown key {key!r} of {what}{nearest(key, [*fields, *also]) or ';'} valid: {', '.join([*also, *fields])}"
            )
        default = fields[key].default
        checked[key] = value if default is dataclasses.MISSING else _typed(value, default, f"{key} of {what}")
    return checked


def _check_names(config: Mapping[str, Any]) -> None:
    optimizer = config["optimizer"]
    named = [
        ("dtype", config["dtype"], DTYPES), ("data.cache", config["data"]["cache"], CACHES),
        ("parallel.mode", config["parallel"]["mode"], MODES), ("loss of main", config["main"]["loss"], LOSSES),
        ("optimizer", optimizer["name"], OPTIMIZERS), ("learning rate schedule", optimizer["schedule"]["name"], SCHEDULES),
        ("weighting", config["weighting"].get("name", "constant"), WEIGHTINGS),
    ]  # fmt: skip
    named += [(f"loss of head {name!r}", entry["loss"], LOSSES) for name, entry in config["heads"].items()]
    for what, name, valid in named:
        if name not in valid:
            raise unknown(what, name, valid)
    make(config["weighting"], {name: entry["weight"] for name, entry in config["heads"].items()})


def _check_ranges(config: Mapping[str, Any]) -> None:
    positive = (
        "data.batch_size",
        "data.eval_batch_size",
        "optimizer.accumulate",
        "optimizer.learning_rate",
        "train.keep_last",
    )
    not_negative = (
        "main.weight", "optimizer.weight_decay", "optimizer.clip_norm", "optimizer.heads_learning_rate_factor", "train.keep_best",
        "data.validation_examples", "data.num_workers", "data.image_size", "parallel.num_devices", "data.augment.crop_padding",
        "data.augment.mixup", "data.augment.cutout", *(f"heads.{name}.weight" for name in config["heads"]),
    )  # fmt: skip
    flat = flatten(config)
    for key in positive:
        if not flat[key] > 0:
            raise AuxjaxError(f"{key}={flat[key]} must be positive")
    for key in not_negative:
        if key in flat and flat[key] < 0:
            raise AuxjaxError(f"{key}={flat[key]} must not be negative")
    fractions = ["optimizer.ema_decay", "optimizer.momentum", "main.label_smoothing"]
    for key in fractions + [f"heads.{name}.label_smoothing" for name in config["heads"]]:
        if not 0 <= flat[key] < 1:
            raise AuxjaxError(f"{key}={flat[key]} must be in [0, 1)")
