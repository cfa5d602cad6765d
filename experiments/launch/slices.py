"""Accelerator types: hosts, chips and devices of a TPU slice, and the runtime version that it starts with."""

from __future__ import annotations

import re
from typing import NamedTuple

from experiments.launch.shell import LaunchError


class Generation(NamedTuple):
    """What a type's name stands for; `counts` is what its number counts for each chip (cores, or chips themselves)."""

    runtime: str
    counts: int
    chips_per_host: int
    largest_host: int  # the chips of the largest slice that is one host
    devices_per_chip: int  # as JAX counts them


# Google Cloud's tables of TPU versions and of TPU software versions.
GENERATIONS = {
    "v2": Generation("tpu-ubuntu2204-base", 2, 4, 4, 2),
    "v3": Generation("tpu-ubuntu2204-base", 2, 4, 4, 2),
    "v4": Generation("tpu-ubuntu2204-base", 2, 4, 4, 1),
    "v5litepod": Generation("v2-alpha-tpuv5-lite", 1, 4, 8, 1),
    "v5p": Generation("v2-alpha-tpuv5", 2, 4, 4, 1),
    "v6e": Generation("v2-alpha-tpuv6e", 1, 4, 8, 1),
}


class Slice(NamedTuple):
    """The sizes of a slice; `devices` is `jax.device_count()` over all hosts."""

    hosts: int
    chips_per_host: int
    chips: int
    devices: int
    runtime: str


def sizes(accelerator_type: str) -> Slice:
    """Returns the sizes of a type such as v5litepod-16; raises LaunchError for one that is not in the table."""
    match = re.fullmatch(r"([a-z0-9]+)-([1-9]\d*)", accelerator_type)
    if match is None or match[1] not in GENERATIONS:
        names = ", ".join(f"{name}-N" for name in GENERATIONS)
        hint = "; v5e is called v5litepod" if accelerator_type.startswith("v5e") else ""
        raise LaunchError(f"unknown type {accelerator_type!r}: give one of {names}{hint}")
    generation = GENERATIONS[match[1]]
    chips, rest = divmod(int(match[2]), generation.counts)
    one_host = chips <= generation.largest_host
    per_host = chips if one_host else generation.chips_per_host
    if rest or chips == 0 or chips % per_host:
        whole = generation.counts * generation.chips_per_host
        raise LaunchError(f"there is no slice {accelerator_type}: the number of {match[1]} is a multiple of {whole}")
    devices = chips * generation.devices_per_chip
    return Slice(chips // per_host, per_host, chips, devices, generation.runtime)


def batch_line(batch_size: int, hosts: int, devices: int) -> str:
    """Returns what a batch is for each host and device; raises LaunchError where it does not divide."""
    if batch_size < 1 or batch_size % devices:
        nearest = max(round(batch_size / devices), 1) * devices
        raise LaunchError(f"batch size {batch_size} does not divide over {devices} devices: take {nearest}")
    return f"batch size {batch_size}: {batch_size // hosts} per host, {batch_size // devices} per device"
