"""Taps: where a head reads, named by the path of a submodule.

The grammar of a tap is `path`, `path.method`, `path#call` and any number of `[entry]` at the end:
`inception_4a` is the output of a submodule, `encoder.encode` that of a method other than `__call__`, `shared#1` the
second call of a submodule that is called more than once, `block[0]` and `block[features]` an entry of a tuple or dict,
and `layers[0][3]` layer 3 of a scanned stack that returns `(carry, ys)`. `.` is the model itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from auxjax.errors import AuxjaxError, nearest

_GRAMMAR = re.compile(r"(?P<path>[^\[\]#]+)(?:#(?P<call>\d+))?(?P<entries>(?:\[[^\[\]]+\])*)")
_TRAIN_FLAGS = {"train": True, "training": True, "is_training": True}
_EVAL_FLAGS = {"deterministic": False, "use_running_average": False}


class Tap(NamedTuple):
    """One parsed tap: the submodule's path and method, which call of it, and the entries picked from its output."""

    path: tuple[str, ...]
    method: str
    call: int | None
    entries: tuple[str, ...]


class Taps(dict[str, jax.ShapeDtypeStruct]):
    """Every tap of a model in the order of execution, with shape and dtype; `str` gives a line per tap."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {s.dtype.name}{list(s.shape)}" for name, s in self.items())


class _Call(NamedTuple):
    """One traced call of a submodule's method, and whether it returned arrays, which alone can be captured."""

    path: tuple[str, ...]
    method: str
    arrays: bool


def parse(at: str) -> Tap:
    """Returns the parsed tap; raises AuxjaxError where `at` does not follow the grammar of this module."""
    match = _GRAMMAR.fullmatch(at)
    if match is None:
        raise AuxjaxError(f"tap {at!r} is not of the form path, path.method, path#call or path[entry]")
    path, dot, method = match["path"].rpartition(".")
    if not dot:
        path, method = method, ""
    entries = tuple(re.findall(r"\[([^\[\]]+)\]", match["entries"]))
    call = None if match["call"] is None else int(match["call"])
    return Tap(tuple(path.split("/")) if path else (), method or "__call__", call, entries)


def reads(at: str, listed: str) -> bool:
    """Returns whether tap `at` reads what `list_taps` calls `listed`, or an entry of it."""
    tap, output = parse(at), parse(listed)
    same = (tap.path, tap.method, tap.call or 0) == (output.path, output.method, output.call or 0)
    return same and tap.entries[: len(output.entries)] == output.entries


def mode_flags(function: Callable[..., Any], train: bool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flag by which `function` is told to train, in whichever spelling its signature has.

    Known are `train`, `training`, `is_training`, and `deterministic`, `use_running_average` for the opposite; a
    function with none of them gets none, and what the caller gave by name is left alone.
    """
    parameters = inspect.signature(function).parameters
    flags = dict.fromkeys(_TRAIN_FLAGS, train) | dict.fromkeys(_EVAL_FLAGS, not train)
    return {name: flag for name, flag in flags.items() if name in parameters and name not in given}


def method_of(module: nn.Module, method: str | Callable[..., Any] | None) -> Callable[..., Any]:
    """Returns the function that `module.apply(method=method)` will call."""
    if callable(method):
        return method
    return getattr(type(module), method or "__call__")


def capture_filter(wanted: set[tuple[tuple[str, ...], str]]) -> Callable[[nn.Module, str], bool]:
    """Returns Flax's `capture_intermediates` filter for pairs of a submodule's path and method."""
    return lambda module, method: (tuple(module.path), method) in wanted


def pick(intermediates: Mapping[str, Any], at: str) -> Any:
    """Returns the value of tap `at` from the captured intermediates; raises AuxjaxError where it is no single array."""
    tap = parse(at)
    node: Any = intermediates
    for name in (*tap.path, tap.method):
        if not isinstance(node, Mapping) or name not in node:
            raise AuxjaxError(f"tap {at!r} was not reached in this call of the model")
        node = node[name]
    if tap.call is None and len(node) > 1:
        choices = ", ".join(repr(f"{at.partition('[')[0]}#{i}") for i in range(len(node)))
        raise AuxjaxError(f"tap {at!r} is called {len(node)} times; pick one of {choices}")
    if (tap.call or 0) >= len(node):
        raise AuxjaxError(f"tap {at!r} picks call {tap.call} of {len(node)}; calls count from 0")
    value = node[tap.call or 0]
    for entry in tap.entries:
        value = _entry(value, entry, at)
    if not hasattr(value, "shape"):
        kinds = ", ".join(repr(at + key) for key in _leaves(value))
        raise AuxjaxError(
            f"tap {at!r} gives a {type(value).__name__}; pick one of its arrays: {kinds or 'it has none'}"
        )
    return value


def list_taps(model: nn.Module, *inputs: Any, method: str | None = None, **kwargs: Any) -> Taps:
    """Returns every tap of `model` called on `inputs` (arrays or shape structs), in order, with shapes and dtypes.

    Nothing is computed. A submodule called n times gives `path#0` to `path#(n-1)`; tuples and dicts give an entry each;
    a scanned layer gives its stacked output. Raises AuxjaxError where a scan hides its layers (see `attach`).
    """
    variables = _shapes_of_variables(model, inputs, method, kwargs)
    calls = _trace(model, variables, inputs, method, kwargs)
    wanted = {(c.path, c.method) for c in calls if c.arrays}
    captured = captured_shapes(model, variables, inputs, wanted, method, kwargs)
    taps = Taps()
    for call in dict.fromkeys((c.path, c.method) for c in calls if c.arrays):
        node: Any = captured
        for name in (*call[0], call[1]):
            node = node.get(name) if isinstance(node, Mapping) else None
        for index, value in enumerate(node or ()):
            name = _name(*call) + (f"#{index}" if len(node) > 1 else "")
            taps.update({name + key: leaf for key, leaf in _leaves(value).items()})
    return taps


def captured_shapes(
    model: nn.Module, variables: Any, inputs: Any, wanted: set[tuple[tuple[str, ...], str]],
    method: str | None, kwargs: Mapping[str, Any],
) -> Mapping[str, Any]:  # fmt: skip
    """Returns the tree of captured outputs as shapes, without computing anything."""

    flags = mode_flags(method_of(model, method), False, kwargs)

    def run(variables: Any, inputs: Any) -> Any:
        _, state = model.apply(
            variables, *inputs, method=method, rngs={"params": jax.random.key(0)}, mutable=["intermediates"],
            capture_intermediates=capture_filter(wanted), **flags, **kwargs,
        )  # fmt: skip
        return state.get("intermediates", {})

    return jax.eval_shape(run, variables, inputs)


def unknown_tap(at: str, model: nn.Module, *inputs: Any, method: str | None = None, **kwargs: Any) -> AuxjaxError:
    """Returns the error for a tap that the model does not have: the nearest taps, or the scan that hides it."""
    tap = parse(at)
    variables = _shapes_of_variables(model, inputs, method, kwargs)
    called = {(c.path, c.method) for c in _trace(model, variables, inputs, method, kwargs)}
    taps = list_taps(model, *inputs, method=method, **kwargs)
    if (tap.path, tap.method) in called and not any(parse(name)[:2] == tap[:2] for name in taps):
        return AuxjaxError(
            f"tap {at!r} lies in an nn.scan that hides it: add 'intermediates': 0 to that scan's variable_axes"
        )
    others = ", ".join(taps) if len(taps) <= 30 else f"auxjax.list_taps(model, x) lists all {len(taps)}"
    return AuxjaxError(f"no tap {at!r} in {type(model).__name__}{nearest(at, taps) or ';'} valid: {others}")


def _entry(value: Any, entry: str, at: str) -> Any:
    if isinstance(value, Mapping) and entry in value:
        return value[entry]
    if hasattr(value, entry) and isinstance(value, tuple):
        return getattr(value, entry)
    size = len(value) if isinstance(value, tuple | list) else (*getattr(value, "shape", ()), 0)[0]
    if re.fullmatch(r"-?\d+", entry) and -size <= int(entry) < size:
        if isinstance(value, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(value.shape[1:], value.dtype)
        return value[int(entry)]
    raise AuxjaxError(f"tap {at!r} has no entry [{entry}]; there are: {', '.join(_leaves(value)) or size}")


def _leaves(value: Any) -> dict[str, Any]:
    """Returns the arrays in `value` keyed by the entries that pick them."""
    found, _ = jax.tree_util.tree_flatten_with_path(value)
    return {"".join(_key(k) for k in path): leaf for path, leaf in found if hasattr(leaf, "shape")}


def _key(key: Any) -> str:
    return f"[{getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key)))}]"


def _name(path: tuple[str, ...], method: str) -> str:
    suffix = "" if method == "__call__" else f".{method}"
    return "/".join(path) + suffix or "."


def _shapes_of_variables(model: nn.Module, inputs: Any, method: str | None, kwargs: Mapping[str, Any]) -> Any:
    flags = mode_flags(method_of(model, method), False, kwargs)
    rngs = dict.fromkeys(("params", "dropout"), jax.eval_shape(lambda: jax.random.key(0)))
    return jax.eval_shape(lambda r, i: model.init(r, *i, method=method, **flags, **kwargs), rngs, inputs)


def _trace(model: nn.Module, variables: Any, inputs: Any, method: str | None, kwargs: Mapping[str, Any]) -> list[_Call]:
    """Returns every submodule call in order; only shapes leave the trace, so that no tracer leaks from a scan."""
    calls: list[_Call] = []

    def record(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = function(*args, **kwargs)
        leaves = jax.tree.leaves(output)
        arrays = bool(leaves) and all(isinstance(leaf, jax.Array) for leaf in leaves)
        if context.method_name.isidentifier() and context.method_name != "setup":
            calls.append(_Call(tuple(context.module.path), context.method_name, arrays))
        return output

    def run(variables: Any, inputs: Any) -> Any:
        flags = mode_flags(method_of(model, method), False, kwargs)
        with nn.intercept_methods(record):
            rngs = {"params": jax.random.key(0)}
            model.apply(variables, *inputs, method=method, rngs=rngs, mutable=["intermediates"], **flags, **kwargs)

    jax.eval_shape(run, variables, inputs)
    return calls
