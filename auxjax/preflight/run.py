"""preflight(): the very train step of a config compiled for a slice that nobody here owns, and what it would take."""

from __future__ import annotations

import contextlib
import itertools
import logging
from pathlib import Path
from typing import Any, NamedTuple

from auxjax import parallel
from auxjax.check import finalize
from auxjax.errors import AuxjaxError
from auxjax.parallel import Layout
from auxjax.preflight import keep as kept
from auxjax.preflight import local
from auxjax.preflight.collectives import totals
from auxjax.preflight.compile import Compiled, compile_step, compiled_anew
from auxjax.preflight.estimate import Estimate, Rates, estimate, rates
from auxjax.preflight.identity import same_inference
from auxjax.preflight.steps import step_of
from auxjax.preflight.topology import LOCAL, Slice, devices, parse
from auxjax.state import REMAT

logger = logging.getLogger("auxjax")

_HALVINGS = 6


class Target(NamedTuple):
    """What a step is compiled for; `slice_` is None for the devices that are here."""

    name: str
    devices: tuple[Any, ...]
    memory: int
    peak: Rates
    slice_: Slice | None

    @property
    def chips(self) -> int:
        """How many chips; devices where they are not a slice's."""
        return len(self.devices) if self.slice_ is None else self.slice_.chips

    @property
    def hosts(self) -> int:
        """How many hosts."""
        return 1 if self.slice_ is None else self.slice_.hosts


class Report(NamedTuple):
    """What preflight found; `identical` and `measured` are None where they were not asked for or cannot be had."""

    target: Target
    config: Any
    compiled: Compiled
    estimate: Estimate
    identical: bool | None = None
    measured: float | None = None
    alternatives: tuple[Report, ...] = ()

    @property
    def batch_size(self) -> int:
        """Examples of a step, over all chips."""
        return int(self.config.data.batch_size)

    @property
    def examples_per_second(self) -> float:
        """Of the estimate."""
        return self.batch_size / self.estimate.step

    @property
    def best(self) -> Report | None:
        """Of this and the alternatives what fits with the largest batch, then the least time; None if nothing does."""
        fitting = [report for report in (self, *self.alternatives) if report.compiled.fits]
        return max(fitting, key=lambda report: (report.batch_size, -report.estimate.step), default=None)


def preflight(
    config: Any, topology: str = LOCAL, *, prove: bool = True, try_all: bool = False, thorough: bool = False,
    keep: str | Path | None = None,
) -> Report:  # fmt: skip
    """Returns what a config's train step takes on a slice such as v5e:2x4, or on the local device.

    Where it does not fit, every remat policy and sharding is compiled, then smaller batches; `try_all` does the former
    in any case. `prove` compiles inference with and without heads too. `thorough` compiles as for a run, which takes
    ten times as long, and so does `keep`, which writes the compiled step of this config to a file. Raises AuxjaxError
    for an unknown or impossible slice, a batch that its devices do not divide, a missing libtpu, and a data set that is
    neither here nor known.
    """
    config = finalize(config)
    target = target_of(topology, config)
    with contextlib.nullcontext() if keep is None else compiled_anew():
        report = of(config, target, thorough=thorough or keep is not None)
    if try_all or not report.compiled.fits:
        report = report._replace(alternatives=tuple(_alternatives(config, target)))
    if report.best is None:
        report = report._replace(alternatives=(*report.alternatives, *_smaller(report)))
    if prove:
        identical = same_inference(step_of(config), Layout("jit", target.devices))
        report = report._replace(identical=identical)
    if target.slice_ is None and report.compiled.fits:
        report = report._replace(measured=local.measured_step(step_of(config), report.compiled.executable))
    if keep is not None:
        _keep(report, keep)
    return report


def target_of(topology: str, config: Any) -> Target:
    """Returns the devices of a slice, or the local one of a finished config, its peaks measured."""
    if topology != LOCAL:
        slice_ = parse(topology)
        size = config.data.batch_size
        if size % slice_.devices == 0 or config.parallel.mode == "pmap":  # else say so before libtpu is asked for
            memory = slice_.chip.memory // slice_.chip.devices
            return Target(slice_.name, devices(slice_), memory, rates(slice_), slice_)
        parallel.check_batch_size(Layout("jit", (None,) * slice_.devices), size)
    where = parallel.layout("jit", config.parallel.num_devices or 1)
    return Target(LOCAL, where.devices, local.memory(where.devices[0]), local.measured_rates(config.dtype), None)


def of(config: Any, target: Target, *, thorough: bool = False) -> Report:
    """Returns the report of a finished config as it is, nothing else tried."""
    logger.info("compiling for %s: %s", target.name, choice(config))
    where = Layout(config.parallel.mode, target.devices)
    compiled = compile_step(step_of(config), where, target.memory, thorough=thorough)
    expected = estimate(
        target.peak, compiled.flops, compiled.bytes_moved, compiled.model_flops, compiled.collectives, target.slice_
    )
    return Report(target, config, compiled, expected)


def choice(config: Any) -> str:
    """Returns what may be changed to make a step fit, as flags."""
    return (
        f"--config.parallel.mode={config.parallel.mode} --config.parallel.remat={config.parallel.remat} "
        f"--config.data.batch_size={config.data.batch_size}"
    )


def _alternatives(config: Any, target: Target) -> list[Report]:
    here = (config.parallel.mode, config.parallel.remat)
    others = [pair for pair in itertools.product(("jit", "fsdp"), REMAT) if pair != here]
    return [of(_changed(config, *pair), target) for pair in others]


def _smaller(report: Report) -> list[Report]:
    """Returns the least hungry alternative at ever smaller batches, until one fits."""
    least = min(report.alternatives, key=lambda found: found.compiled.needed)
    parts = len(report.target.devices) * report.config.optimizer.accumulate
    tried, size = [], report.batch_size
    mode, remat = least.config.parallel.mode, least.config.parallel.remat
    for _ in range(_HALVINGS):
        size = size // 2 // parts * parts
        if size == 0:
            break
        tried.append(of(_changed(report.config, mode, remat, size), report.target))
        if tried[-1].compiled.fits:
            break
    return tried


def _changed(config: Any, mode: str, remat: str, batch_size: int = 0) -> Any:
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.parallel.update(mode=mode, remat=remat)
        copy.data.batch_size = batch_size or config.data.batch_size
    return copy


def _keep(report: Report, path: str | Path) -> None:
    if not report.compiled.fits:
        raise AuxjaxError(f"nothing to keep: {verdict(report)}")
    where = Layout(report.config.parallel.mode, report.target.devices)
    kept.keep(report.compiled.executable, path, kept.header(report.config, where))


def verdict(report: Report) -> str:
    """Returns whether the step fits, and what would where it does not, in one line."""
    needed, available = (value / 2**30 for value in (report.compiled.needed, report.compiled.available))
    if report.compiled.fits:
        return f"fits: {needed:.2f} of {available:.2f} GiB on each device"
    best = report.best
    fix = f"what fits: {choice(best.config)}" if best else "nothing tried does: take a smaller model or image"
    return f"does not fit {report.target.name}: {needed:.2f} GiB on each device, which has {available:.2f}; {fix}"


def facts(report: Report) -> dict[str, Any]:
    """Returns a report as JSON; bytes and FLOPs are of one device, rates and times of the estimate."""
    target, compiled, size = report.target, report.compiled, report.batch_size
    best = report.best
    return {
        "topology": target.name, "chips": target.chips, "devices": len(target.devices), "hosts": target.hosts,
        "model": report.config.model.name, "mode": report.config.parallel.mode, "remat": report.config.parallel.remat,
        "batch_size": size, "batch_per_chip": size / target.chips, "batch_per_host": size / target.hosts,
        "fits": compiled.fits, "needed_bytes": compiled.needed, "available_bytes": compiled.available,
        "memory_bytes": compiled.memory._asdict(), "flops": compiled.flops, "model_flops": compiled.model_flops,
        "bytes_moved": compiled.bytes_moved, "collectives": totals(compiled.collectives),
        "unknown_rounds": any(not item.counted for item in compiled.collectives),
        "estimate": report.estimate._asdict() | {"bound": report.estimate.bound},
        "examples_per_second": report.examples_per_second, "same_inference": report.identical,
        "measured_seconds": report.measured,
        "measured_over_estimate": None if report.measured is None else report.measured / report.estimate.step,
        "best": None if best is None else choice(best.config), "versions": _versions(),
        "tried": [facts(other) for other in report.alternatives],
    }  # fmt: skip


def _versions() -> dict[str, str]:
    return {name: kept.version(name) for name in ("jax", "jaxlib", "libtpu")}
