"""A slice by name, such as v5e:2x4 or v5p:4x4x4: its chips, hosts and links, and devices to compile for."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from auxjax.errors import AuxjaxError, missing_extra, unknown
from auxjax.preflight.chips import CHIPS, Chip

LOCAL = "local"
# A slice of these is a rectangle that the vendor's pages list; larger ones than a pod's are none.
_RECTANGLES = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32))
# Below one cube of 4 x 4 x 4.
_PARTS_OF_A_CUBE = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_CUBE = 4
# libtpu would ask the machine that it is on which slice it belongs to, log at length that there is none, and let one
# process at a time load it, for the chips' sake; a compiler alone touches none.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


class Slice(NamedTuple):
    """A rectangle or a box of chips of one generation."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is asked for: v5e:2x4."""
        return f"{self.chip.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """How many chips."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """How many devices JAX sees."""
        return self.chips * self.chip.devices

    @property
    def host_shape(self) -> tuple[int, ...]:
        """The chips of one host: all of a slice of at most one host's chips, four chips of a larger one."""
        whole = self.chips <= math.prod(self.chip.host_shape)
        shape = self.shape if whole else (2, 2) + (1,) * (self.chip.axes - 2)
        return (*shape, *(1,) * (3 - len(shape)))

    @property
    def hosts(self) -> int:
        """How many hosts."""
        return self.chips // math.prod(self.host_shape)

    @property
    def rings(self) -> tuple[bool, ...]:
        """Of each axis longer than one chip, whether its links close to a ring; a line has half a ring's bandwidth."""
        closed = all(size % _CUBE == 0 for size in self.shape)
        if self.chip.axes == 2:
            return tuple(size == self.chip.largest[0] for size in self.shape if size > 1)
        return tuple(closed for size in self.shape if size > 1)


def parse(text: str) -> Slice:
    """Returns the slice of a name such as v5e:2x4; raises AuxjaxError, naming valid shapes, where there is none."""
    generation, _, rest = text.lower().partition(":")
    if generation not in CHIPS:
        raise unknown("TPU generation", generation, [*CHIPS, LOCAL])
    chip = CHIPS[generation]
    try:
        shape = tuple(int(size) for size in rest.split("x"))
    except ValueError:
        shape = ()
    valid = shapes(chip)
    if shape not in valid:
        shown = [shape_name(found) for found in valid[:12]]
        more = f" and so on up to {shape_name(chip.largest)}" if len(valid) > len(shown) else ""
        raise AuxjaxError(f"no slice {rest!r} of {generation}: write {generation}: and one of {', '.join(shown)}{more}")
    return Slice(chip, shape)


def shape_name(shape: tuple[int, ...]) -> str:
    """Returns a shape as it is written: 2x4."""
    return "x".join(map(str, shape))


def shapes(chip: Chip) -> list[tuple[int, ...]]:
    """Returns the shapes of a generation's slices, by size: the listed rectangles, or parts of a cube and cubes."""
    if chip.axes == 2:
        fit = [shape for shape in _RECTANGLES if shape <= chip.largest and math.prod(shape) <= math.prod(chip.largest)]
        single = [(1, 1)] if chip.devices == 1 else []
        several_hosts = [shape for shape in fit if chip.devices == 1 or shape != (2, 4)]
        return [*single, *several_hosts]
    sizes = [range(_CUBE, size + 1, _CUBE) for size in chip.largest]
    boxes = {shape for shape in itertools.product(*sizes) if tuple(sorted(shape)) == shape}
    return [*_PARTS_OF_A_CUBE, *sorted(boxes, key=lambda shape: (math.prod(shape), shape))]


def devices(slice_: Slice) -> tuple[Any, ...]:
    """Returns a slice's devices, for which programs can be compiled and not run.

    Raises AuxjaxError where libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise missing_extra("libtpu", "tpu")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": slice_.host_shape}
    if slice_.chip.generation == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as on a v4 itself
    with environment(_ALONE):
        try:
            found = topologies.get_topology_desc(topology_name=slice_.name, platform="tpu", **options).devices
        except jax.errors.JaxRuntimeError as error:
            raise AuxjaxError(f"libtpu knows no slice {slice_.name}: {' '.join(str(error).split())}") from None
    if len(found) != slice_.devices:
        raise AuxjaxError(f"libtpu gives {len(found)} devices for {slice_.name}, expected {slice_.devices}")
    return tuple(found)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables that are not set, inside the block."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
