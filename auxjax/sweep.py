"""Grids over config keys: a list of changes, each `{dotted key: value}`, from flags, generators or `get_hyper`."""

from __future__ import annotations

import ast
import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from auxjax.config import OPEN, flatten
from auxjax.errors import AuxjaxError, unknown

LEARNING_RATE = "optimizer.learning_rate"

Changes = dict[str, Any]

_OPENING, _CLOSING = "([{", ")]}"


def parse_axis(text: str, config: Mapping[str, Any]) -> list[Changes]:
    """Returns the changes of `KEY=v1,v2,...`, each value of the type that the key has in `config`.

    A tuple stands in quotes or parentheses (`heads.aux1.features='64,32',(128,)`). A key that a section of open keys
    (model, heads, weighting) lacks is a number, a bool or a tuple where it reads as one, else a string. Raises
    AuxjaxError for an unknown key, naming the nearest, and for a value of another type.
    """
    key, equals, values = text.partition("=")
    key = key.strip().removeprefix("config.")
    if not equals or not key or not values.strip():
        raise AuxjaxError(f"--axis={text!r} has no values: write --axis=heads.aux1.weight=0,0.3")
    check_key(config, key)
    present = flatten(config)
    return sweep(key, [_value(part, present.get(key), key) for part in split(values)])


def parse_seeds(text: str) -> list[int]:
    """Returns the seeds 0 to n - 1 of `n`, and those of a list as they stand (`0,3,7`; `7,` is seed 7 alone)."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise AuxjaxError(f"--seeds={text!r} must be a number of seeds, or seeds with commas as in 0,3,7") from None
    seeds = numbers if "," in text else list(range(sum(numbers)))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise AuxjaxError(f"--seeds={text!r} must be at least one seed, none negative and none twice")
    return seeds


def parse_learning_rates(text: str, config: Mapping[str, Any], grid: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the rates of a list; of "auto" a third of the config's, its own and three times it; of "config" none.

    "auto" is none as well where the grid sweeps the rate itself. Raises AuxjaxError for what is no positive number.
    """
    if text == "config" or (text == "auto" and any(LEARNING_RATE in changes for changes in grid)):
        return []
    if text == "auto":
        own = float(config["optimizer"]["learning_rate"])
        return [float(f"{own / 3:.2g}"), own, float(f"{own * 3:.2g}")]
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise AuxjaxError(f"--learning_rates={text!r} must be auto, config, or positive numbers as in 0.03,0.1,0.3")
    return rates


def combinations(
    config: Mapping[str, Any],
    module: types.ModuleType | None = None,
    *,
    names: Sequence[str] = (),
    axes: Sequence[str] = (),
) -> list[Changes]:
    """Returns the product of a config file's sweeps and of the axes of the command line; one empty change for none.

    `names` picks from the file: NAME is the generator `sweep_NAME()`, "sweep" is `sweep()` and "get_hyper" is
    big_vision's function of that name. A file's own `sweep()`, else its `get_hyper`, is taken where neither names nor
    axes are given.
    """
    found = generators(module)
    if not names and not axes:
        names = [name for name in ("sweep", "get_hyper") if name in found][:1]
    for name in names:
        if name not in found:
            if found:
                raise unknown("sweep", name, found)
            raise AuxjaxError(f"no sweep {name!r}: the config file has neither sweep() nor sweep_{name}()")
    read = [_checked(found[name](), name) for name in names]
    return product([*read, *(parse_axis(axis, config) for axis in axes)])


def generators(module: types.ModuleType | None) -> dict[str, Callable[[], Iterable[Mapping[str, Any]]]]:
    """Returns a config file's sweeps by name: `sweep()` as "sweep", `sweep_NAME()` as NAME, and "get_hyper"."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items() if module is not None else ():
        if name == "sweep" or name.startswith("sweep_"):
            found[name.removeprefix("sweep_")] = value
    hyper = getattr(module, "get_hyper", None)
    return found if hyper is None else found | {"get_hyper": lambda: hyper(HYPER)}


def sweep(name: str, values: Iterable[Any]) -> list[Changes]:
    """Returns a change for each value of one key."""
    return [{name.removeprefix("config."): value} for value in values]


def fixed(name: str, value: Any, length: int = 1) -> list[Changes]:
    """Returns one value `length` times."""
    return sweep(name, [value] * length)


def product(parts: Iterable[Iterable[Changes]], name: str | None = None) -> list[Changes]:
    """Returns every combination of the parts, the last turning fastest; one empty change where there are no parts.

    `name` is big_vision's prefix of all keys, which says nothing here. Raises AuxjaxError for a key in two parts.
    """
    return [_merged(group) for group in itertools.product(*parts)]


def zipit(parts: Iterable[Iterable[Changes]]) -> list[Changes]:
    """Returns the parts side by side; raises AuxjaxError where their lengths differ, which would lose arms."""
    lists = [list(part) for part in parts]
    if len({len(part) for part in lists}) > 1:
        raise AuxjaxError(f"zipit of parts of {', '.join(str(len(p)) for p in lists)} values: all must be as long")
    return [_merged(group) for group in zip(*lists, strict=True)]


def chainit(parts: Iterable[Iterable[Changes]]) -> list[Changes]:
    """Returns the parts one after the other."""
    return list(itertools.chain.from_iterable(parts))


# What big_vision's and scenic's `get_hyper(hyper)` takes.
HYPER = types.SimpleNamespace(
    sweep=sweep, fixed=fixed, product=product, zipit=zipit, chainit=chainit, discrete=list, categorical=list
)


def check_key(config: Mapping[str, Any], key: str) -> None:
    """Raises AuxjaxError for a dotted key that `config` lacks, naming the nearest; open sections may have new keys."""
    section: Any = config
    names = key.split(".")
    for depth, name in enumerate(names):
        where = ".".join(names[:depth])
        if not hasattr(section, "keys"):
            raise AuxjaxError(f"unknown config key {key!r}: {where} is no section")
        if name not in section:
            if depth and names[0] in OPEN:
                return
            raise unknown("config key", key, [f"{where}.{k}".strip(".") for k in section])
        section = section[name]


def split(text: str) -> list[str]:
    """Returns the parts between the commas that are in no quotes and no brackets."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (not quote) * ((character in _OPENING) - (character in _CLOSING))
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _value(text: str, present: Any, key: str) -> Any:
    """Returns a flag's text as the type of the value that the config has, or as it reads where there is none."""
    if not text:
        raise AuxjaxError(f"--axis={key}=...: a value is empty; write '' for an empty string")
    if text[0] in _OPENING:
        return _literal(text, key)
    quoted = text[0] in "'\"" and text[-1] == text[0] and len(text) > 1
    text = text[1:-1] if quoted else text
    if isinstance(present, tuple):
        return tuple(_guess(part) for part in split(text) if part)
    if isinstance(present, str) or quoted:
        return text
    guess = _guess(text)
    if present is None:
        return guess
    if isinstance(present, float) and type(guess) is int:
        return float(guess)
    if type(guess) is not type(present):
        raise AuxjaxError(f"--axis={key}: {text!r} must be {type(present).__name__}, as {present!r} is")
    return guess


def _literal(text: str, key: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise AuxjaxError(f"--axis={key}: {text!r} is no value; quote the strings in it") from None


def _guess(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _merged(group: Iterable[Changes]) -> Changes:
    merged: Changes = {}
    for changes in group:
        for key, value in changes.items():
            if key in merged:
                raise AuxjaxError(f"{key} is swept twice: drop one of the two")
            merged[key] = value
    return merged


def _checked(produced: Any, name: str) -> list[Changes]:
    listed = list(produced) if isinstance(produced, Iterable) else [produced]
    for changes in listed:
        if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
            raise AuxjaxError(f"sweep {name!r} must yield dicts of dotted keys, as in {{'seed': 1}}, not {changes!r}")
    if not listed:
        raise AuxjaxError(f"sweep {name!r} yields nothing")
    return [{key.removeprefix("config."): value for key, value in changes.items()} for changes in listed]
