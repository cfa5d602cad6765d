"""attach(): heads on any layers of any Linen module, by path, the module untouched; strip() takes them out again."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict, freeze

from auxjax.errors import AuxjaxError, unknown
from auxjax.heads import Head
from auxjax.taps import capture_filter, captured_shapes, list_taps, method_of, mode_flags, parse, pick, unknown_tap

__all__ = ["Attached", "attach", "list_taps", "strip"]

Variables = Mapping[str, Any]


def attach(model: nn.Module, heads: Mapping[str, Head]) -> Attached:
    """Returns `model` with `heads` on its taps; neither the model nor its initial variables change.

    The result has Linen's `init`, `apply` and `tabulate`. It is no Linen module itself, because a parent's scope would
    change every key from which Linen draws the model's parameters and dropout masks.
    Raises AuxjaxError for a head named `main`, a name with `/`, a malformed tap and an invalid `stop_gradient`.
    """
    if not isinstance(model, nn.Module):
        raise AuxjaxError(f"attach needs a flax.linen module, not {type(model).__name__}")
    for name, head in heads.items():
        if name == "main" or not name or "/" in name:
            raise AuxjaxError(f"a head cannot be named {name!r}: 'main' is the model's own output, '/' separates paths")
        if not isinstance(head, Head):
            raise AuxjaxError(f"head {name!r} must be an auxjax.Head, not {type(head).__name__}")
        parse(head.at)
    return Attached(model, freeze(dict(heads)))


@dataclasses.dataclass(frozen=True)
class Attached:
    """A model and its heads; every variable collection is `{"model": ..., "heads": {name: ...}}`."""

    model: nn.Module
    heads: FrozenDict[str, Head]

    def init(self, rngs: Any, *inputs: Any, method: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Returns the variables: the model's bit for bit as `model.init` gives them, and every head's.

        `rngs` is a key or a dict of keys as for Linen. Raises AuxjaxError for a tap that the model does not have.
        """
        flags = mode_flags(method_of(self.model, method), False, kwargs)
        model_variables = self.model.init(rngs, *inputs, method=method, **flags, **kwargs)
        keys = rngs if isinstance(rngs, Mapping) else {"params": rngs}
        halves: dict[str, Any] = {
            c: {"model": v, "heads": {}} for c, v in model_variables.items() if c != "intermediates"
        }
        for name, shape in self.tap_shapes(model_variables, *inputs, method=method, **kwargs).items():
            module = self.heads[name].module
            flags = mode_flags(type(module).__call__, False, {})
            try:
                head_variables = module.init(_head_keys(keys, name), jnp.zeros(shape.shape, shape.dtype), **flags)
            except AuxjaxError as error:
                fitting = _fitting_taps(module, self.model, inputs, method, kwargs)
                raise AuxjaxError(f"head {name!r} at {self.heads[name].at!r}: {error}; {fitting}") from None
            for collection, value in head_variables.items():
                halves.setdefault(collection, {"model": {}, "heads": {}})["heads"][name] = value
        return halves

    def apply(
        self, variables: Variables, *inputs: Any, train: bool, heads: Collection[str] | None = None,
        rngs: Mapping[str, Any] | None = None, mutable: bool | str | Sequence[str] = False,
        step: Any = None, feedback: Mapping[str, Any] | None = None, method: str | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Returns `{"main": ..., name: ...}` when training and `{"main": ...}`, with no head computed, when not.

        `variables` has both halves; `heads` names those to compute in place of that rule, so that a head can be
        evaluated; `step` is needed by a head whose gradient stops from or until a step; `feedback` multiplies, by
        head, the gradient that goes into the tap and not that of the head's own parameters. With `mutable`, returns
        `(outputs, updates)`, the updates in halves too.
        """
        names = _active(self.heads, heads, train)
        collections = _collections(mutable)
        flags = mode_flags(method_of(self.model, method), train, kwargs)
        wanted = {parse(self.heads[name].at)[:2] for name in names}
        captured: dict[str, Any] = {"capture_intermediates": capture_filter(wanted)} if names else {}
        listed = [*collections, *({"intermediates"} - set(collections) if names else ())]
        result = self.model.apply(
            {c: v["model"] for c, v in variables.items() if v["model"]}, *inputs, method=method,
            rngs=None if rngs is None else dict(rngs), mutable=listed or False, **captured, **flags, **kwargs,
        )  # fmt: skip
        main, updates = result if listed else (result, {})
        outputs = {"main": main}
        halves: dict[str, Any] = {c: {"model": v, "heads": {}} for c, v in updates.items() if c in collections}
        for name in names:
            value = _gate(pick(updates.get("intermediates", {}), self.heads[name].at), self.heads[name], name, step)
            if feedback is not None:
                value = _scale_gradient(value, feedback[name])
            outputs[name], changed = self._apply_head(name, variables, value, train, rngs, collections)
            for collection, update in changed.items():
                halves.setdefault(collection, {"model": {}, "heads": {}})["heads"][name] = update
        return (outputs, halves) if collections else outputs

    def _apply_head(
        self, name: str, variables: Variables, value: Any, train: bool, rngs: Mapping[str, Any] | None,
        collections: Sequence[str],
    ) -> tuple[Any, Mapping[str, Any]]:  # fmt: skip
        module = self.heads[name].module
        own = {c: v["heads"][name] for c, v in variables.items() if name in v["heads"]}
        flags = mode_flags(type(module).__call__, train, {})
        if not own and jax.tree.leaves(jax.eval_shape(lambda k: module.init(k, value, **flags), jax.random.key(0))):
            raise AuxjaxError(f"these variables have no head {name!r}: they were stripped, or made for other heads")
        keys = None if rngs is None else _head_keys(rngs, name)
        result = module.apply(own, value, rngs=keys, mutable=list(collections) or False, **flags)
        return result if collections else (result, {})

    def tap_shapes(
        self, model_variables: Variables, *inputs: Any, method: str | None = None, **kwargs: Any
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shape and dtype of what each head reads; raises AuxjaxError for a tap that the model has not."""
        if not self.heads:
            return {}
        wanted = {parse(head.at)[:2] for head in self.heads.values()}
        captured = captured_shapes(self.model, model_variables, inputs, wanted, method, kwargs)
        shapes = {}
        for name, head in self.heads.items():
            node: Any = captured
            for key in (*parse(head.at).path, parse(head.at).method):
                node = node.get(key) if isinstance(node, Mapping) else None
            if node is None:
                error = unknown_tap(head.at, self.model, *inputs, method=method, **kwargs)
                raise AuxjaxError(f"{error}; {_fitting_taps(head.module, self.model, inputs, method, kwargs)}")
            shapes[name] = pick(captured, head.at)
        return shapes

    def tabulate(self, rngs: Any, *inputs: Any, **kwargs: Any) -> str:
        """Returns Linen's table of the model, then one of each head."""
        flags = mode_flags(type(self.model).__call__, False, kwargs)
        tables = [self.model.tabulate(rngs, *inputs, **flags, **kwargs)]
        variables = jax.eval_shape(lambda r: self.model.init(r, *inputs, **flags), rngs)
        for name, shape in self.tap_shapes(variables, *inputs).items():
            module = self.heads[name].module
            flags = mode_flags(type(module).__call__, False, {})
            tables.append(
                f"head {name} at {self.heads[name].at}"
                + module.tabulate(rngs, jnp.zeros(shape.shape, shape.dtype), **flags, **kwargs)
            )
        return "\n".join(tables)


def strip(variables: Variables) -> dict[str, Any]:
    """Returns the model's half of every collection: exactly what the bare model's `apply` takes.

    Raises AuxjaxError where a collection does not have the halves `model` and `heads`.
    """
    for collection, value in variables.items():
        if not isinstance(value, Mapping) or set(value) != {"model", "heads"}:
            raise AuxjaxError(
                f"collection {collection!r} has no halves 'model' and 'heads': it is stripped, or not of attach()"
            )
    return {collection: value["model"] for collection, value in variables.items() if value["model"]}


def _fitting_taps(module: nn.Module, model: nn.Module, inputs: Any, method: str | None, kwargs: Any) -> str:
    """Returns in words which taps of a model a head could read: outputs of its own submodules where there are any."""
    flags = mode_flags(type(module).__call__, False, {})

    def fits(shape: jax.ShapeDtypeStruct) -> bool:
        try:
            jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **flags), shape)
        except (AuxjaxError, TypeError, ValueError):
            return False
        return True

    taps = list_taps(model, *inputs, method=method, **kwargs)
    outer = {name: shape for name, shape in taps.items() if "/" not in name and name != "."} or taps
    names = [name for name, shape in outer.items() if fits(shape)]
    some = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"this head fits {some or 'no tap of this model'}"


def _active(heads: Mapping[str, Head], wanted: Collection[str] | None, train: bool) -> tuple[str, ...]:
    if wanted is None:
        return tuple(heads) if train else ()
    for name in wanted:
        if name not in heads:
            raise unknown("head", name, heads)
    return tuple(name for name in heads if name in wanted)


def _collections(mutable: bool | str | Sequence[str]) -> tuple[str, ...]:
    if mutable is True:
        raise AuxjaxError("mutable=True would hide what changes; name the collections, as in mutable=['batch_stats']")
    return (mutable,) if isinstance(mutable, str) else tuple(mutable or ())


def _head_keys(keys: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns keys of the head's own, so that a head changes no random bit of the model or of another head.

    What follows an @ in the name does not count: `aux1@0` and `aux1@1` are one head in two places.
    """
    name = name.partition("@")[0]
    return {stream: jax.random.fold_in(key, zlib.crc32(f"heads/{name}".encode())) for stream, key in keys.items()}


def _gate(value: jax.Array, head: Head, name: str, step: Any) -> jax.Array:
    """Stops the gradient of a head that only probes, always or from/until a step (scheduled as in NanoDet-Plus)."""
    if isinstance(head.stop_gradient, bool):
        return jax.lax.stop_gradient(value) if head.stop_gradient else value
    if step is None:
        raise AuxjaxError(f"head {name!r} stops its gradient by step: pass step= to apply")
    (kind, limit), = head.stop_gradient.items()  # fmt: skip
    stopped = step >= limit if kind == "from_steps" else step < limit
    return jnp.where(stopped, jax.lax.stop_gradient(value), value)


def _scale_gradient(value: jax.Array, factor: Any) -> jax.Array:
    """Returns the very bits of `value`, through which gradients go multiplied by `factor`."""
    return value + (jnp.asarray(factor, value.dtype) - 1) * (value - jax.lax.stop_gradient(value))
