"""A sweep over slices: weak scaling (batch a chip fixed) and strong (batch fixed), compiled or on paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from auxjax.check import finalize
from auxjax.errors import AuxjaxError
from auxjax.preflight.estimate import estimate, rates
from auxjax.preflight.run import Report, of, target_of
from auxjax.preflight.topology import Slice, parse


class Point(NamedTuple):
    """One slice of a curve: examples a second, and that a chip over the first slice's of the same generation."""

    kind: str
    slice_: Slice
    batch_size: int
    seconds: float
    fits: bool
    efficiency: float

    @property
    def examples_per_second(self) -> float:
        """Of the estimate."""
        return self.batch_size / self.seconds


def sweep(config: Any, names: Sequence[str]) -> tuple[list[Report], list[Point]]:
    """Returns reports and points of a config compiled for every slice, weak and strong.

    The first slice has the config's batch, and the batch a chip that weak scaling keeps. A batch that a slice's
    devices do not divide, or divide into none, is left out of strong scaling.
    """
    config = finalize(config)
    slices = [parse(name) for name in names]
    per_chip = config.data.batch_size / slices[0].chips
    reports: list[Report] = []
    points: list[Point] = []
    first: dict[tuple[str, str], float] = {}
    for slice_ in slices:
        sizes = {"weak": round(per_chip * slice_.chips), "strong": config.data.batch_size}
        made: dict[int, Report] = {}
        for kind, size in sizes.items():
            if size % slice_.devices:
                continue
            if size not in made:
                made[size] = of(_with_batch(config, size), target_of(slice_.name, _with_batch(config, size)))
            point = _point(kind, slice_, size, made[size].estimate.step, made[size].compiled.fits, first)
            points.append(point)
        reports += made.values()
    return reports, points


def on_paper(report: Report, names: Sequence[str]) -> list[Point]:
    """Returns weak scaling of one compiled slice to others of its generation, none of them compiled.

    Assumed is that each device keeps its FLOPs, its bytes moved and its collectives, which all grow over the whole
    slice: as in data parallelism, where only the number of those that take part in an all-reduce changes. Raises
    AuxjaxError for fsdp, where what a device gathers depends on their number, and for another generation.
    """
    origin = report.target.slice_
    if origin is None or report.config.parallel.mode != "jit":
        raise AuxjaxError("scaling on paper needs a slice compiled with parallel.mode=jit")
    points: list[Point] = []
    first: dict[tuple[str, str], float] = {}
    for slice_ in [origin, *(parse(name) for name in names if name != origin.name)]:
        if slice_.chip != origin.chip:
            raise AuxjaxError(f"scaling on paper stays within a generation: {slice_.name} is not {origin.name}'s")
        compiled = report.compiled
        expected = estimate(
            rates(slice_), compiled.flops, compiled.bytes_moved, compiled.model_flops, compiled.collectives, slice_
        )
        size = report.batch_size * slice_.chips // origin.chips
        points.append(_point("weak, on paper", slice_, size, expected.step, compiled.fits, first))
    return points


def table(points: Sequence[Point]) -> str:
    """Returns the points as a Markdown table."""
    header = "| scaling | slice | chips | batch | estimated ms | examples/s | efficiency |"
    lines = [header, "|---|---|---|---|---|---|---|"]
    for p in points:
        cells = [
            p.kind, p.slice_.name, f"{p.slice_.chips:,}", f"{p.batch_size:,}", f"{1e3 * p.seconds:.2f}",
            f"{p.examples_per_second:,.0f}", f"{100 * p.efficiency:.1f} %" + ("" if p.fits else " (does not fit)"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(curves: dict[str, Sequence[Point]], folder: str | Path, name: str = "scaling") -> list[Path]:
    """Writes the curves, by name, as PNG and SVG: examples a second and efficiency over chips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, points in curves.items():
        for kind in dict.fromkeys(point.kind for point in points):
            mine = [point for point in points if point.kind == kind]
            chips = [point.slice_.chips for point in mine]
            shown = ", ".join(part for part in (label, kind) if part)
            left.plot(chips, [point.examples_per_second for point in mine], marker="o", markersize=4, label=shown)
            right.plot(chips, [100 * point.efficiency for point in mine], marker="o", markersize=4, label=shown)
    for axes, title in ((left, "examples a second (estimate)"), (right, "examples a second and chip, % of the first")):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set(xlabel="chips", title=title)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    right.set_ylim(0, 105)
    left.legend(fontsize="small")
    paths = [Path(folder) / f"{name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=130)
    return paths


def _point(
    kind: str, slice_: Slice, size: int, seconds: float, fits: bool, first: dict[tuple[str, str], float]
) -> Point:
    rate = size / seconds / slice_.chips
    reference = first.setdefault((kind, slice_.chip.generation), rate)
    return Point(kind, slice_, size, seconds, fits, rate / reference)


def _with_batch(config: Any, size: int) -> Any:
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.data.batch_size = size
    return copy
