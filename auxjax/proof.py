"""The proof that a stripped network is the network that never had heads: same program, same outputs, same cost."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.taps import method_of, mode_flags


def prove_stripped(
    attached: Attached, variables: Mapping[str, Any], stripped: Mapping[str, Any], inputs: jax.Array
) -> None:
    """Raises AuxjaxError unless `stripped` with the bare model is the trained network in inference, without its heads.

    Shown are: every array of `stripped` is one that the bare model's `init` makes, and no other; the lowered program of
    `attached` in inference equals the bare model's, symbols and locations apart; on `inputs` both give the same bits;
    the compiled programs count the same FLOPs and bytes.
    """
    # The proof runs on one device, whatever the layout that the variables were trained in.
    variables, stripped = jax.device_get((dict(variables), dict(stripped)))
    check_bare(attached.model, stripped, inputs)
    with_heads, bare = _programs(
        attached, jax.tree.map(_shape, dict(variables)), jax.tree.map(_shape, dict(stripped)), _shape(inputs)
    )
    if with_heads.text != bare.text:
        raise AuxjaxError(
            "strip proof failed: inference with heads attached lowers to another program than the bare model"
        )
    if with_heads.cost != bare.cost:
        raise AuxjaxError(f"strip proof failed: FLOPs and bytes differ, {with_heads.cost} against {bare.cost}")
    pairs = zip(
        jax.tree.leaves(with_heads.run(variables, inputs)), jax.tree.leaves(bare.run(stripped, inputs)), strict=True
    )
    if not all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in pairs):
        raise AuxjaxError("strip proof failed: the stripped network's outputs differ from the trained network's")


def check_bare(model: nn.Module, stripped: Mapping[str, Any], inputs: Any) -> None:
    """Raises AuxjaxError unless `stripped` has exactly the arrays, by path, shape and dtype, of the bare model."""
    check_paths(
        paths(stripped), paths(bare_shapes(model, inputs)), "strip proof failed: not the bare model's variables"
    )


def bare_shapes(model: nn.Module, inputs: Any) -> Any:
    """Returns shapes and dtypes of the variables that `model.init` makes, computing nothing."""
    flags = mode_flags(method_of(model, None), False, {})
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **flags), inputs)


def check_paths(found: Mapping[str, str], expected: Mapping[str, str], wrong: str) -> None:
    """Raises AuxjaxError, opening with `wrong`, that names the first array in which two results of `paths` differ."""
    for path in [*found, *expected]:
        have, want = found.get(path, "absent"), expected.get(path, "absent")
        if have != want:
            raise AuxjaxError(f"{wrong}: {path} is {have}, expected {want}")


def paths(tree: Any) -> dict[str, str]:
    """Returns `dtype[shape]` of every array in a tree by its path, joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(k, "key", k)) for k in path): f"{np.dtype(x.dtype).name}{list(x.shape)}"
        for path, x in leaves
    }


class _Lowered:
    """An inference program: its normalised text, its cost, and how to run it."""

    def __init__(self, function: Any, *args: Any) -> None:
        lowered = jax.jit(function).lower(*args)
        self.text = _normalised(lowered.as_text())
        self.run = lowered.compile()
        analysis = self.run.cost_analysis() or {}
        self.cost = {key: analysis.get(key) for key in ("flops", "bytes accessed")}


@functools.lru_cache(maxsize=4)
def _compiled(attached: Attached, variables: Any, stripped: Any, inputs: Any) -> tuple[_Lowered, _Lowered]:
    trees = [jax.tree.unflatten(structure, leaves) for structure, leaves in (variables, stripped)]
    flags = mode_flags(method_of(attached.model, None), False, {})
    with_heads = _Lowered(lambda v, x: attached.apply(v, x, train=False)["main"], trees[0], inputs)
    return with_heads, _Lowered(lambda v, x: attached.model.apply(v, x, **flags), trees[1], inputs)


def _programs(attached: Attached, variables: Any, stripped: Any, inputs: Any) -> tuple[_Lowered, _Lowered]:
    keys = [(jax.tree.structure(tree), tuple(jax.tree.leaves(tree))) for tree in (variables, stripped)]
    return _compiled(attached, *keys, inputs)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _normalised(text: str) -> str:
    """Returns a program's text without locations and with functions named by order of appearance."""
    text = re.sub(r"\s*loc\(.*?\)|^#loc.*$", "", text, flags=re.MULTILINE)
    names = dict.fromkeys(re.findall(r"@[\w.]+", text))
    table = {name: f"@f{i}" for i, name in enumerate(names)}
    return re.sub(r"@[\w.]+", lambda match: table[match[0]], text)
