"""Estimates against sums done by hand."""

from __future__ import annotations

import pytest

from auxjax.preflight.chips import CHIPS
from auxjax.preflight.collectives import Collective
from auxjax.preflight.estimate import Rates, collective_seconds, estimate, rates
from auxjax.preflight.topology import parse

REDUCE = Collective("all-reduce", 400_000_000, 1, 0, False, True)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        # Rings in neither axis: one link's worth an axis of 50 GB/s; 1 + 3 hops there and back.
        ("v5e:2x4", 2 * 7 / 8 * 4e8 / 100e9 + 8e-6),
        # Rings in both axes: two links each; 8 + 8 hops there and back.
        ("v5e:16x16", 2 * 255 / 256 * 4e8 / 200e9 + 32e-6),
        ("v5e:8x16", 2 * 127 / 128 * 4e8 / 150e9 + 2 * (7 + 8) * 1e-6),
        # A cube closes in all three axes, six links of 100 GB/s; 2 + 2 + 2 hops.
        ("v5p:4x4x4", 2 * 63 / 64 * 4e8 / 600e9 + 12e-6),
        ("v5e:1x1", 0.0),
    ],
)
def test_an_all_reduce_takes_the_links_of_every_axis(name: str, seconds: float) -> None:
    assert collective_seconds(REDUCE, parse(name)) == pytest.approx(seconds, rel=1e-3)


def test_a_gather_and_a_scatter_are_an_all_reduce() -> None:
    slice_ = parse("v5p:8x8x8")
    halves = [collective_seconds(REDUCE._replace(kind=kind), slice_) for kind in ("all-gather", "reduce-scatter")]
    assert sum(halves) == pytest.approx(collective_seconds(REDUCE, slice_))


def test_a_step_is_the_slower_of_compute_and_memory_and_what_waits() -> None:
    slice_ = parse("v5e:2x4")
    peak = Rates(1e5, 1e4)
    found = estimate(peak, 300.0, 20.0, 200.0, [REDUCE], slice_)
    waits = collective_seconds(REDUCE, slice_)
    assert found.step == pytest.approx(3e-3 + waits)
    assert found.utilisation == pytest.approx(200.0 / ((3e-3 + waits) * 1e5))
    assert found.bound == "communication"
    assert estimate(peak, 300.0, 50.0, 200.0, [], slice_).bound == "memory"


def test_what_is_asynchronous_waits_only_for_what_the_work_does_not_hide() -> None:
    slice_, hidden = parse("v5e:2x4"), REDUCE._replace(asynchronous=True)
    takes = collective_seconds(hidden, slice_)
    assert estimate(Rates(1.0, 1.0), 100.0, 1.0, 100.0, [hidden], slice_).exposed == 0.0
    assert estimate(Rates(1.0, 1.0), 1e-3, 1e-3, 1e-3, [hidden], slice_).exposed == pytest.approx(takes - 1e-3)


def test_the_devices_of_a_chip_share_its_peaks() -> None:
    for name, chip in CHIPS.items():
        shape = "2x2" if chip.axes == 2 else "2x2x1"
        found = rates(parse(f"{name}:{shape}"))
        assert found.flops * chip.devices == pytest.approx(chip.flops)
        assert found.bytes * chip.devices == pytest.approx(chip.memory_bandwidth)
