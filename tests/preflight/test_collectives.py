"""Collectives of programs compiled for eight devices made of the CPU, and of texts in the forms that a TPU's has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from auxjax import parallel
from auxjax.preflight.collectives import Collective, collectives, totals

pytestmark = pytest.mark.multidevice

FLOATS = 24 * 1024
WHOLE, SPLIT = P(), P("data")


def compiled(function: Callable[[jax.Array], Any], out: P = WHOLE) -> list[Collective]:
    """The collectives of a function of each device's share, float32[24 * 1024]."""
    mesh = parallel.layout("jit").mesh
    shared = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=out, check_vma=False)
    text = jax.jit(shared).lower(jax.ShapeDtypeStruct((8 * FLOATS,), jnp.float32)).compile().as_text()
    assert text is not None
    return collectives(text)


@pytest.mark.parametrize(
    ("kind", "function", "out", "size"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), WHOLE, 4 * FLOATS),
        ("all-gather", lambda x: jax.lax.all_gather(x, "data"), WHOLE, 8 * 4 * FLOATS),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "data", tiled=True), SPLIT, 4 * FLOATS),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True), SPLIT, 4 * FLOATS),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]),
            SPLIT,
            4 * FLOATS,
        ),
    ],
)
def test_each_kind_has_its_whole_buffer_once(kind: str, function: Any, out: P, size: int) -> None:
    assert totals(compiled(function, out)) == {kind: {"count": 1, "bytes": size}}


def test_a_loop_of_known_rounds_counts_every_round() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 7, lambda i, y: jax.lax.psum(y, "data") * 0.1, x)

    assert totals(compiled(loop)) == {"all-reduce": {"count": 7, "bytes": 7 * 4 * FLOATS}}
    assert all(item.counted for item in compiled(loop))


def test_a_loop_of_unknown_rounds_counts_one_and_says_so() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda y: y[0] < 3.0, lambda y: jax.lax.psum(y, "data"), x)

    (found,) = compiled(loop)
    assert found.times == 1 and not found.counted


def test_a_start_and_its_done_are_one_asynchronous_collective() -> None:
    text = """HloModule step

%wrapped (p: f32[2,4]) -> f32[4,4] {
  %p = f32[2,4]{1,0} parameter(0)
  ROOT %g = f32[4,4]{1,0:T(8,128)S(1)} all-gather(%p), replica_groups=[4,2]<=[8], dimensions={0}
}

ENTRY %main (a: bf16[8,128]) -> f32[] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %r = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} all-reduce-start(%a), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %d = bf16[8,128]{1,0} all-reduce-done(%r)
  %h = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%d), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %i = bf16[32,128]{1,0} all-gather-done(%h)
  %s = ((f32[2,4]), f32[4,4], u32[]) async-start(%a), calls=%wrapped
  %t = f32[4,4] async-done(%s), calls=%wrapped
  ROOT %z = (f32[2]{0}, /*index=1*/s32[]) all-reduce(%a, %a), replica_groups={}, to_apply=%add
}
"""
    assert collectives(text) == [
        Collective("all-reduce", 2 * 8 * 128, 1, 4, True, True),
        Collective("all-gather", 2 * 32 * 128, 1, 4, True, True),
        Collective("all-gather", 4 * 16, 1, 2, False, True),
        Collective("all-reduce", 12, 1, 0, False, True),
    ]


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4), ("[4,2]<=[8]", 2), ("mesh['data'=8] {'data'}", 8),
        ("mesh['data'=4,'model'=2] {'model'}", 2), ("mesh['data'=8] {'data':(2)4}", 4),
    ],
)  # fmt: skip
def test_groups_are_read_in_each_form_that_compilers_write(groups: str, size: int) -> None:
    text = f"""HloModule step

ENTRY %main (a: f32[64]) -> f32[8] {{
  %a = f32[64]{{0}} parameter(0)
  ROOT %r = f32[8]{{0}} reduce-scatter(%a), channel_id=1, replica_groups={groups}, dimensions={{0}}, to_apply=%sum
}}
"""
    (found,) = collectives(text)
    assert found.group == size and found.bytes == 4 * 8 * size
