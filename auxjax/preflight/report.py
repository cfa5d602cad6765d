"""What preflight found as text, Markdown and JSON; and the curves of a sweep over slices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from auxjax.preflight.collectives import totals
from auxjax.preflight.run import Report, facts, verdict
from auxjax.storage import local_folder

NOTE = (
    "Times are estimates, not measurements: the slower of compute and memory at a chip's published peaks (the local "
    "device's measured ones), plus collectives as rings over the torus; auxjax/preflight/estimate.py says all of it."
)
_GIB = 2**30


def rows(report: Report) -> list[tuple[str, str]]:
    """Returns the lines of a report as (what, value)."""
    target, compiled, expected, size = report.target, report.compiled, report.estimate, report.batch_size
    memory = compiled.memory
    kinds = ", ".join(f"{name} {value / _GIB:.3f}" for name, value in memory._asdict().items())
    table = [
        ("target", f"{target.name}; chips {target.chips}, devices {len(target.devices)}, hosts {target.hosts}"),
        ("batch", f"{size}: {size / target.chips:g} a chip, {size / target.hosts:g} a host"),
        ("layout", f"parallel.mode={report.config.parallel.mode}, remat={report.config.parallel.remat}"),
        ("memory", verdict(report)),
    ]
    if compiled.executable is not None:
        table += [
            ("by kind, GiB", kinds),
            ("FLOPs a device", f"{compiled.flops:.4g} (XLA), {compiled.model_flops:.4g} the model's own"),
            ("bytes moved a device", f"{compiled.bytes_moved:.4g}"),
            ("collectives", _collectives(report)),
            ("estimate", f"{1e3 * expected.step:.3g} ms a step, bound by {expected.bound}: {_parts(report)}"),
            ("estimated MFU", f"{100 * expected.utilisation:.1f} %, {report.examples_per_second:,.0f} examples/s"),
        ]
    if report.measured is not None:
        factor = report.measured / expected.step
        table.append(("measured", f"{1e3 * report.measured:.3g} ms a step, {factor:.2f} times the estimate"))
    if report.identical is not None:
        same = "the same program" if report.identical else "ANOTHER PROGRAM"
        table.append(("inference", f"with heads attached {same} as without, on this compiler"))
    for other in report.alternatives:
        layout = f"{other.config.parallel.mode}, remat {other.config.parallel.remat}, batch {other.batch_size}"
        time = f", {1e3 * other.estimate.step:.3g} ms" if other.compiled.executable is not None else ""
        fits = "fits" if other.compiled.fits else "does not fit"
        table.append((f"tried {layout}", f"{fits}, {other.compiled.needed / _GIB:.2f} GiB{time}"))
    return table


def text(reports: Sequence[Report]) -> str:
    """Returns the reports as aligned lines for a terminal."""
    blocks = []
    for report in reports:
        width = max(len(name) for name, _ in rows(report))
        blocks.append("\n".join(f"{name:<{width}}  {value}" for name, value in rows(report)))
    return "\n\n".join([*blocks, NOTE])


def markdown(reports: Sequence[Report]) -> str:
    """Returns one table with a row a report."""
    lines = [
        "| model | slice | chips | batch a chip | GiB a device | fits | all-reduces, MB | est. ms | MFU | bound by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in reports:
        compiled, expected, target = report.compiled, report.estimate, report.target
        sent = totals(compiled.collectives).get("all-reduce", {"count": 0, "bytes": 0})
        known = compiled.executable is not None
        cells = [
            report.config.model.name, target.name, str(target.chips), f"{report.batch_size / target.chips:g}",
            f"{compiled.needed / _GIB:.2f} of {compiled.available / _GIB:.2f}", "yes" if compiled.fits else "no",
            f"{sent['count']}, {sent['bytes'] / 1e6:.1f}" if known else "-",
            f"{1e3 * expected.step:.2f}" if known else "-",
            f"{100 * expected.utilisation:.0f} %" if known else "-", expected.bound if known else "-",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE, ""])


def save(reports: Sequence[Report], folder: str | Path) -> list[Path]:
    """Writes `preflight.json` and `preflight.md`."""
    place = local_folder(folder)
    written = [place / "preflight.json", place / "preflight.md"]
    written[0].write_text(json.dumps([facts(report) for report in reports], indent=1) + "\n")
    written[1].write_text(markdown(reports))
    return written


def _collectives(report: Report) -> str:
    found = totals(report.compiled.collectives)
    unknown = any(not item.counted for item in report.compiled.collectives)
    parts = [f"{row['count']} {kind} of {row['bytes'] / 1e6:.3g} MB in all" for kind, row in found.items()]
    return (", ".join(parts) or "none") + (" (loops of unknown rounds count once)" if unknown else "")


def _parts(report: Report) -> str:
    expected = report.estimate
    values = {"compute": expected.compute, "memory": expected.memory, "waiting for collectives": expected.exposed}
    return ", ".join(f"{name} {1e3 * value:.3g}" for name, value in values.items())
