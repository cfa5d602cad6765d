"""The trunk: which of the model's parameters the methods that look at gradients take for shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from auxjax.errors import AuxjaxError, unknown

KINDS = ("shared", "shallowest", "taps")


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree of parameters by path, as in `conv1/kernel`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): x
        for path, x in leaves
    }


def unnamed(like: Any, leaves: Mapping[str, Any]) -> Any:
    """Returns a tree of the structure of `like` from its leaves by path."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in named(like)])


def mains_alone(reach: Sequence[Mapping[str, bool]]) -> set[str]:
    """Returns the paths of the arrays that no head reaches, from which arrays each of the K losses reaches."""
    return {name for name in reach[0] if not any(head[name] for head in reach[1:])}


def trunk_names(kind: str, reach: Sequence[Mapping[str, bool]]) -> tuple[str, ...]:
    """Returns the paths of the trunk's arrays, from which arrays each of the K losses reaches, main first.

    "shared" are those that main and another loss reach, "shallowest" those that all K reach; any other `kind` is the
    path of a submodule, whose arrays they are. Raises AuxjaxError for a submodule that is not there, or that no head
    reaches.
    """
    main, heads = reach[0], reach[1:]
    shared = [name for name in main if main[name] and any(head[name] for head in heads)]
    if kind == "shared":
        return tuple(shared)
    if kind == "shallowest":
        return tuple(name for name in shared if all(head[name] for head in heads))
    inside = [name for name in main if f"{name}/".startswith(f"{kind}/")]
    if not inside:
        modules = {name.rpartition("/")[0] for name in main}
        raise unknown("trunk", kind, [*KINDS, *sorted(modules | {m.partition("/")[0] for m in modules})])
    if heads and not any(name in shared for name in inside):
        reached = sorted({name.partition("/")[0] for name in shared})
        raise AuxjaxError(f"trunk {kind!r}: no head reaches this submodule; they reach {', '.join(reached) or 'none'}")
    return tuple(inside)
