"""Seconds of a step from what a compiler counts and a chip's published peaks: an estimate, never a measurement.

Assumptions: the peak rates of compute and of memory are reached, and the slower one hides the other. Bytes moved are
those that XLA counts, on-chip memory among them. XLA counts the body of a loop inside the model (`nn.scan`) once, so
that such a step moves more bytes than are said here. Collectives run as rings over all axes of the torus at once, and
send 2 (n - 1) / n of an all-reduce's buffer, (n - 1) / n of another's; an axis that closes to a ring has its links both
ways, one that does not half of that; each hop takes a microsecond. While a collective that is not asynchronous runs,
nothing else does.
"""

from __future__ import annotations

from typing import NamedTuple

from auxjax.preflight.collectives import Collective
from auxjax.preflight.topology import Slice

# Austin et al. 2025, "How to Scale Your Model", part 3 (on collectives), of a TPU.
HOP_SECONDS = 1e-6


class Rates(NamedTuple):
    """What one device does in a second: FLOPs, and bytes between it and its memory."""

    flops: float
    bytes: float


class Estimate(NamedTuple):
    """Seconds of one step, and the model's FLOPs over what the devices could do in that time (MFU)."""

    compute: float
    memory: float
    communication: float
    exposed: float
    step: float
    utilisation: float

    @property
    def bound(self) -> str:
        """What takes most of the step."""
        times = {"compute": self.compute, "memory": self.memory, "communication": self.exposed}
        return max(times, key=lambda name: times[name])


def rates(slice_: Slice) -> Rates:
    """Returns the published peaks of one device of a slice, bfloat16."""
    chip = slice_.chip
    return Rates(chip.flops / chip.devices, chip.memory_bandwidth / chip.devices)


def estimate(
    peak: Rates, flops: float, moved: float, model_flops: float, found: list[Collective], slice_: Slice | None
) -> Estimate:
    """Returns the estimate of a step from one device's FLOPs, bytes moved and collectives.

    `model_flops` are one device's share of what the network's own convolutions and matrix products need, nothing
    computed twice. `slice_` is None for a device that is alone.
    """
    compute, memory = max(flops, model_flops) / peak.flops, moved / peak.bytes
    work = max(compute, memory)
    seconds = [(item, 0.0 if slice_ is None else item.times * collective_seconds(item, slice_)) for item in found]
    waiting = sum(time for item, time in seconds if not item.asynchronous)
    meanwhile = sum(time for item, time in seconds if item.asynchronous)
    exposed = waiting + max(meanwhile - work, 0.0)
    step = work + exposed
    return Estimate(compute, memory, waiting + meanwhile, exposed, step, model_flops / (step * peak.flops))


def collective_seconds(item: Collective, slice_: Slice) -> float:
    """Returns the seconds of one run of a collective over a slice's links."""
    count, chip = slice_.chips, slice_.chip
    if count == 1:
        return 0.0
    lines = sum(2 if closed else 1 for closed in slice_.rings)
    sizes = [size for size in slice_.shape if size > 1]
    hops = sum(size // 2 if closed else size - 1 for size, closed in zip(sizes, slice_.rings, strict=True))
    if item.kind == "collective-permute":
        return item.bytes / chip.link_bandwidth + HOP_SECONDS
    passes = 2 if item.kind == "all-reduce" else 1
    # What the devices of one chip hold is summed there before it leaves; a gathered buffer leaves it once.
    sent = passes * (count - 1) / count * item.bytes / (lines * chip.link_bandwidth)
    return sent + passes * hops * HOP_SECONDS
