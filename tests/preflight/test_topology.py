"""Chips against the vendor's own figures for whole pods; slices, their hosts, and what is no slice."""

from __future__ import annotations

import importlib.util
import math

import pytest

from auxjax.errors import AuxjaxError
from auxjax.preflight import topology
from auxjax.preflight.chips import CHIPS, GIB
from auxjax.preflight.topology import parse, shapes


@pytest.mark.parametrize(
    ("name", "flops", "bisection"),
    # FLOP/s and, where the page gives it, bytes/s through the middle of a pod: 2 links a row or column, one way.
    [
        ("v3:32x32", 126e15, None), ("v4:16x16x16", 1.1e18, 24e12), ("v5e:16x16", 50.63e15, 1.6e12),
        ("v6e:16x16", 234.9e15, 3.2e12),
    ],
)  # fmt: skip
def test_a_pod_has_what_the_page_says_of_it(name: str, flops: float, bisection: float | None) -> None:
    pod = parse(name)
    assert pod.chips * pod.chip.flops == pytest.approx(flops, rel=0.03)
    if bisection is not None:
        rows = pod.chips // max(pod.shape)
        assert 2 * rows * pod.chip.link_bandwidth == pytest.approx(bisection, rel=0.07)


def test_every_chip_is_cited_and_sane() -> None:
    assert list(CHIPS) == ["v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x"]
    for chip in CHIPS.values():
        assert chip.source.startswith("docs.cloud.google.com/tpu/docs/")
        assert chip.links == 2 * chip.axes
        # From 50 to 600 FLOPs a byte, and between 16 and 192 GiB.
        assert 50 < chip.flops / chip.memory_bandwidth < 600
        assert 16 * GIB <= chip.memory <= 192 * GIB


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts"),
    [
        ("v2:2x2", 4, 8, 1), ("v3:4x4", 16, 32, 4), ("v4:2x2x1", 4, 4, 1), ("v5e:1x1", 1, 1, 1),
        ("v5e:2x4", 8, 8, 1), ("v5e:4x4", 16, 16, 4), ("v6e:16x16", 256, 256, 64), ("v5p:4x4x4", 64, 64, 16),
        ("v5p:16x16x16", 4096, 4096, 1024), ("tpu7x:2x2x2", 8, 16, 2),
    ],
)  # fmt: skip
def test_slices_have_the_chips_and_hosts_of_the_vendors_tables(name: str, chips: int, devices: int, hosts: int) -> None:
    slice_ = parse(name)
    assert (slice_.name, slice_.chips, slice_.devices, slice_.hosts) == (name, chips, devices, hosts)


def test_every_shape_is_made_of_whole_hosts_and_no_larger_than_the_largest() -> None:
    for chip in CHIPS.values():
        for shape in shapes(chip):
            slice_ = topology.Slice(chip, shape)
            assert slice_.chips == slice_.hosts * math.prod(slice_.host_shape)
            assert all(size <= most for size, most in zip(shape, chip.largest, strict=True))
        assert shapes(chip)[-1] == chip.largest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5x:2x4", "unknown TPU generation 'v5x'; did you mean"),
        ("v5e:3x4", r"no slice '3x4' of v5e: write v5e: and one of 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16$"),
        ("v5e:4x4x4", "no slice '4x4x4' of v5e"),
        ("v5p", r"no slice '' of v5p: write v5p: and one of 2x2x1, .* and so on up to 16x16x24$"),
        ("v5p:4x4x6", "no slice '4x4x6' of v5p"),
        ("v5p:8x4x4", "no slice '8x4x4' of v5p"),
        ("v6e:32x32", "no slice '32x32' of v6e"),
    ],
)
def test_what_is_no_slice_is_one_line_with_those_that_are(name: str, message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        parse(name)
    assert "\n" not in str(error.value)


def test_without_libtpu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AuxjaxError, match=r"package 'libtpu' is missing: pip install 'auxjax\[tpu\]'"):
        topology.devices(parse("v5e:2x4"))
