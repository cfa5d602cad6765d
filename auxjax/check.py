"""finalize(): refuses a config that could not run, in one line and before anything compiles."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from auxjax import held_out, weighting
from auxjax.config import OPEN, base, duration, flatten, head, plain
from auxjax.diagnostics.recording import IN_TRAINING
from auxjax.errors import AuxjaxError, nearest, unknown
from auxjax.heads import HEADS
from auxjax.losses import LOSSES, TAUGHT
from auxjax.models import MODELS
from auxjax.optimizer import OPTIMIZERS, SCHEDULES
from auxjax.parallel import MODES
from auxjax.pretrained import check_file
from auxjax.state import REMAT
from auxjax.weighting import schedule

DTYPES = ("float32", "bfloat16", "float16", "float64")
CACHES = ("device", "host")
NON_FINITE = ("stop", "skip", "rollback")
_NOT_FOR_CONFIGS = ("parent", "name", "dtype", "param_dtype", "axis_name")
_POSITIVE = (
    "data.batch_size", "data.eval_batch_size", "optimizer.accumulate", "optimizer.learning_rate", "optimizer.eps",
    "optimizer.schedule.every_percent", "train.keep_last",
)  # fmt: skip
_NOT_NEGATIVE = (
    "main.weight", "optimizer.weight_decay", "optimizer.clip_norm", "optimizer.heads_learning_rate_factor",
    "optimizer.schedule.floor", "optimizer.schedule.gamma", "train.keep_best", "data.validation_examples",
    "data.num_workers", "data.image_size", "data.augment.crop_padding", "data.augment.mixup", "data.augment.cutout",
    "parallel.num_devices",
)  # fmt: skip
_FRACTIONS = ("optimizer.ema_decay", "optimizer.momentum", "optimizer.b1", "optimizer.b2", "main.label_smoothing")


def finalize(config: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns a checked, complete, locked copy of `config`; raises AuxjaxError for anything that could not run."""
    given = plain(config)
    _check_keys(given, base().to_dict(), "")
    given["model"] = _model(given["model"])
    given["heads"] = {name: _head(name, entry) for name, entry in given["heads"].items()}
    _check_names(given)
    _check_ranges(given)
    _check_durations(given)
    if given["pretrained"]["path"]:
        check_file(given["pretrained"]["path"])
    return ml_collections.ConfigDict(given).lock()


def _check_keys(given: dict[str, Any], reference: Mapping[str, Any], where: str) -> None:
    """Checks keys and types against the base config; `where` is the section's path with its dot."""
    for key in given:
        if key not in reference:
            raise unknown("config key", f"{where}{key}", [where + k for k in reference])
    lost = [key for key in reference if key not in given]
    if lost:
        section, single = where.removesuffix(".") or "the config", f"config.{where}{lost[0]}=..."
        raise AuxjaxError(f"{section} lost its keys {', '.join(lost)}: set single keys, as in {single}, not all of it")
    for key, default in reference.items():
        if not isinstance(default, Mapping):
            given[key] = _typed(given[key], default, where + key)
        elif not isinstance(given[key], Mapping):
            raise AuxjaxError(f"{where}{key} is a section, not {given[key]!r}")
        elif where or key not in OPEN:
            _check_keys(given[key], default, f"{where}{key}.")


def _typed(value: Any, default: Any, where: str) -> Any:
    """Returns `value` as the default's type; commas split where that is a tuple, since flags give ('a,b',)."""
    if isinstance(default, tuple):
        items = value if isinstance(value, tuple | list) else (value,)
        items = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
        kind = type(default[0]) if default else str
        try:
            return tuple(kind(item) for item in items)
        except (TypeError, ValueError):
            raise AuxjaxError(f"{where}={value!r} must be {kind.__name__}s, as in {default}") from None
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not None and type(value) is not type(default):
        raise AuxjaxError(f"{where}={value!r} must be {type(default).__name__}, not {type(value).__name__}")
    return value


def _model(entry: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(entry)
    name = _typed(fields.pop("name", ""), "", "model.name")
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return {"name": name, **_fields(MODELS[name], fields, f"model {name!r}", (*_NOT_FOR_CONFIGS, "num_classes"))}


def _head(name: str, entry: Any) -> dict[str, Any]:
    if name in ("main", "total", "gradient") or not name or "/" in name:
        raise AuxjaxError(
            f"a head cannot be named {name!r}: 'main', 'total' and 'gradient' name metrics, '/' separates paths"
        )
    if not isinstance(entry, Mapping):
        raise AuxjaxError(f"heads.{name} is a section with at= and kind=, not {entry!r}")
    for key in ("at", "kind"):
        if key not in entry:
            kinds = ", ".join(sorted(HEADS))
            raise AuxjaxError(f"head {name!r} has no {key!r}: heads.{name} needs at= (a tap) and kind= ({kinds})")
    common, full = head("", ""), head(**entry)
    for key in ("at", "kind", "loss", "target", "mask", "label_smoothing"):
        full[key] = _typed(full[key], common[key], f"heads.{name}.{key}")
    if full["kind"] not in HEADS:
        raise unknown(f"kind of head {name!r}", full["kind"], HEADS)
    if isinstance(full["weight"], Mapping):
        schedule(full["weight"], f"weight of head {name!r}")
    else:
        full["weight"] = _typed(full["weight"], 0.0, f"heads.{name}.weight")
    _check_stop_gradient(full["stop_gradient"], f"heads.{name}.stop_gradient")
    own = {key: value for key, value in full.items() if key not in common}
    own = _fields(HEADS[full["kind"]], own, f"head {name!r}", _NOT_FOR_CONFIGS, also=common)
    return {key: full[key] for key in common} | own


def _check_stop_gradient(value: Any, where: str) -> None:
    scheduled = isinstance(value, Mapping) and list(value) in (["from_steps"], ["until_steps"])
    if scheduled and all(type(step) is int and step >= 0 for step in value.values()):
        return
    if not isinstance(value, bool):
        raise AuxjaxError(f"{where}={value!r} must be True, False, {{'from_steps': n}} or {{'until_steps': n}}")


def _fields(
    kind: type, given: Mapping[str, Any], what: str, hidden: Collection[str], also: Collection[str] = ()
) -> dict[str, Any]:
    """Returns `given` checked against the fields of a module's class."""
    fields = {f.name: f.default for f in dataclasses.fields(kind) if f.name not in hidden}
    checked = {}
    for key, value in given.items():
        if key not in fields:
            valid = [*also, *fields]
            raise AuxjaxError(f"unknown key {key!r} of {what}{nearest(key, valid) or ';'} valid: {', '.join(valid)}")
        # Of all fields only the number of classes has no default.
        default = 0 if fields[key] is dataclasses.MISSING else fields[key]
        checked[key] = _typed(value, default, f"{key} of {what}")
        if isinstance(checked[key], float) and not math.isfinite(checked[key]):
            raise AuxjaxError(f"{key} of {what} must be finite, not {value}")
    return checked


def _check_names(config: Mapping[str, Any]) -> None:
    optimizer = config["optimizer"]
    named = [
        ("dtype", config["dtype"], DTYPES), ("data.cache", config["data"]["cache"], CACHES),
        ("parallel.mode", config["parallel"]["mode"], MODES),
        ("train.non_finite", config["train"]["non_finite"], NON_FINITE),
        ("parallel.remat", config["parallel"]["remat"], REMAT), ("loss of main", config["main"]["loss"], LOSSES),
        ("optimizer", optimizer["name"], OPTIMIZERS),
        ("learning rate schedule", optimizer["schedule"]["name"], SCHEDULES),
    ]  # fmt: skip
    named += [(f"loss of head {name!r}", entry["loss"], LOSSES) for name, entry in config["heads"].items()]
    named += [("diagnostic in training", name, IN_TRAINING) for name in config["diagnostics"]["names"]]
    for what, name, valid in named:
        if name not in valid:
            raise unknown(what, name, valid)
    if config["main"]["loss"] in TAUGHT:
        raise AuxjaxError(f"main.loss={config['main']['loss']!r}: main is that loss's teacher; give it to a head")
    chosen = weighting.choose(config["weighting"])
    weighting.own_weights(chosen.schedule, {name: entry["weight"] for name, entry in config["heads"].items()})
    _check_weighting(config, chosen)


def _check_weighting(config: Mapping[str, Any], chosen: weighting.Chosen) -> None:
    needs, accumulate = chosen.weighting.needs, config["optimizer"]["accumulate"]
    name = config["weighting"]["name"]
    if needs and accumulate > 1:
        raise AuxjaxError(
            f"weighting {name!r} needs {', '.join(sorted(needs))}, which optimizer.accumulate={accumulate} has not"
        )
    if chosen.trunk == "taps" and needs & {"gradients", "held_out"}:
        raise AuxjaxError(f"weighting {name!r} needs gradients of parameters, and trunk='taps' has none: take 'shared'")
    if "held_out" in needs and config["data"]["batch_size"] % held_out.PARTS:
        raise AuxjaxError(
            f"weighting {name!r} holds out a part of {held_out.PARTS} of data.batch_size={config['data']['batch_size']}"
        )


def _check_ranges(config: Mapping[str, Any]) -> None:
    flat = flatten(config)
    heads = [f"heads.{name}" for name in config["heads"]]
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise AuxjaxError(f"{key}={value} must be finite")
    for key in _POSITIVE:
        if flat[key] <= 0:
            raise AuxjaxError(f"{key}={flat[key]} must be positive")
    for key in (*_NOT_NEGATIVE, *(f"{name}.weight" for name in heads)):
        if key in flat and flat[key] < 0:  # a weight's schedule stands under other keys
            raise AuxjaxError(f"{key}={flat[key]} must not be negative")
    for key in (*_FRACTIONS, *(f"{name}.label_smoothing" for name in heads)):
        if not 0 <= flat[key] < 1:
            raise AuxjaxError(f"{key}={flat[key]} must be in [0, 1)")
    if not 0 <= flat["data.label_noise"] <= 1:
        raise AuxjaxError(f"data.label_noise={flat['data.label_noise']} must be in [0, 1]")
    if flat["data.label_noise"] and flat["data.cache"] != "device":
        raise AuxjaxError("data.label_noise is decided by an example's position: it needs data.cache='device'")
    if not 0 <= config["seed"] < 2**32:
        raise AuxjaxError(f"seed={config['seed']} must be in [0, 2**32)")


def _check_durations(config: Mapping[str, Any]) -> None:
    sizes: dict[str, Any] = {"steps_per_epoch": 1, "batch_size": 1, "total_steps": 100}
    train = {f"train.{key}": value for key, value in config["train"].items()}
    for prefix in ("total", "eval", "log", "checkpoint"):
        duration(train, f"train.{prefix}", **sizes)
    schedule = {f"optimizer.schedule.{key}": value for key, value in config["optimizer"]["schedule"].items()}
    duration(schedule, "optimizer.schedule.warmup", required=False, **sizes)
    diagnostics = {f"diagnostics.{key}": value for key, value in config["diagnostics"].items()}
    duration(diagnostics, "diagnostics.every", required=bool(config["diagnostics"]["names"]), **sizes)
