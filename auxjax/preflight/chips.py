"""Published numbers of TPU generations, by the name that a slice is asked for; each with its source.

The sources are the vendor's pages "TPU v2", "TPU v3", "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)"
(docs.cloud.google.com/tpu/docs, read in November 2026), and for links that those pages leave out two papers: Jouppi et
al. 2020, "A Domain-Specific Supercomputer for Training Deep Neural Networks" (v2, v3), and Jouppi et al. 2023,
arXiv 2304.01433, table 4 (v4).
"""

from __future__ import annotations

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One chip; rates are a second, bytes, and those of an interconnect link one way.

    `devices` is how many devices JAX sees in a chip, `host_shape` the chips of the largest host, `largest` the shape of
    the largest slice.
    """

    generation: str
    flops: float  # bfloat16
    memory: int
    memory_bandwidth: float
    links: int
    link_bandwidth: float
    devices: int
    host_shape: tuple[int, ...]
    largest: tuple[int, ...]
    source: str

    @property
    def axes(self) -> int:
        """How many axes the interconnect has."""
        return len(self.largest)


_PAGE = "docs.cloud.google.com/tpu/docs/"
_TWO_DIMENSIONAL, _THREE_DIMENSIONAL = (2, 4), (2, 2, 1)

CHIPS: dict[str, Chip] = {
    chip.generation: chip
    for chip in (
        # 496 and 656 Gbit/s a link and direction (Jouppi et al. 2020).
        Chip("v2", 46e12, 16 * GIB, 700e9, 4, 62e9, 2, (2, 2), (16, 16), _PAGE + "v2"),
        Chip("v3", 123e12, 32 * GIB, 900e9, 4, 82e9, 2, (2, 2), (32, 32), _PAGE + "v3"),
        # Six links of 50 GB/s (Jouppi et al. 2023, table 4).
        Chip("v4", 275e12, 32 * GIB, 1200e9, 6, 50e9, 1, _THREE_DIMENSIONAL, (16, 16, 16), _PAGE + "v4"),
        # From here on the pages give the bandwidth of all of a chip's links, both ways: 400, 1200, 800, 1200 GB/s.
        Chip("v5e", 197e12, 16 * GIB, 819e9, 4, 50e9, 1, _TWO_DIMENSIONAL, (16, 16), _PAGE + "v5e"),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 6, 100e9, 1, _THREE_DIMENSIONAL, (16, 16, 24), _PAGE + "v5p"),
        Chip("v6e", 918e12, 32 * GIB, 1638e9, 4, 100e9, 1, _TWO_DIMENSIONAL, (16, 16), _PAGE + "v6e"),
        Chip("tpu7x", 2307e12, 192 * GIB, 7380e9, 6, 100e9, 2, _THREE_DIMENSIONAL, (16, 16, 36), _PAGE + "tpu7x"),
    )
}  # fmt: skip
