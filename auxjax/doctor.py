"""What an issue needs to say about a machine: versions, devices, memory, folders, and one training step.

Nothing but the standard library is imported before a check needs it, so that a broken installation is a line of the
report.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

_LOW_MEMORY, _LOW_DISK = 2e9, 2e9


class Check(NamedTuple):
    """One line of the report; `problem` says in one line what is broken and how to mend it, empty where nothing is."""

    name: str
    found: str
    problem: str = ""


def report(workdir: str) -> list[Check]:
    """Returns every check; what goes wrong inside one is its problem, never an exception."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or "~/.cache/auxjax/jax"
    checks: list[tuple[str, Callable[[], list[Check]]]] = [
        ("auxjax", source),
        ("python", python),
        ("machine", machine),
        ("workdir", lambda: [folder("workdir", workdir)]),
        ("packages", packages),
        ("extras", extras),
        ("devices", devices),
        ("data sets", data_sets),
        ("compile cache", lambda: [folder("compile cache", cache)]),
        ("environment", lambda: [environment(os.environ)]),
        ("train step", train_step),
    ]
    return [check for name, function in checks for check in guarded(name, function)]


def guarded(name: str, function: Callable[[], list[Check]]) -> list[Check]:
    """Returns what `function` finds, or its exception as a problem."""
    try:
        return function()
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        fix = "pip install -e . in the checkout" if isinstance(error, ImportError) else "report it with this output"
        return [Check(name, "broken", f"{type(error).__name__}: {text}; {fix}")]


def to_text(checks: list[Check]) -> str:
    """Returns the report as Markdown, to be pasted into an issue: all that was found, then what is broken."""
    lines = ["### auxjax doctor", "", *(f"- {check.name}: {check.found}" for check in checks), ""]
    broken = [f"- {check.name}: {check.problem}" for check in checks if check.problem]
    return "\n".join(lines + (["**Broken**", "", *broken] if broken else ["Nothing is broken."]))


def source() -> list[Check]:
    """Finds the version, and the commit where this is a checkout."""
    here = Path(__file__).resolve().parent
    version = re.search(r'__version__ = "(.+)"', (here / "_version.py").read_text())
    git = ["git", "-C", str(here), "-c", f"safe.directory={here.parent}"]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--short", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return [Check("auxjax", version[1] if version else "unknown")]
    where = f", commit {commit.stdout.strip()}" if commit.returncode == 0 else ", no checkout"
    edited = f", {len(changed.stdout.splitlines())} files changed" if changed.stdout else ""
    return [Check("auxjax", f"{version[1] if version else 'unknown'}{where}{edited}")]


def python() -> list[Check]:
    """Finds Python and the system."""
    old = "needs Python 3.11 or newer: uv venv --python 3.13" if sys.version_info < (3, 11) else ""
    system = f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(platform.libc_ver())}"
    return [Check("python", f"{platform.python_version()} ({sys.executable})", old), Check("system", system)]


def machine() -> list[Check]:
    """Finds processors and memory, as far as this process may use them."""
    beside = runpy.run_path(str(Path(__file__).with_name("machine.py")))
    checks = [Check("processors", f"{beside['processors']()} of {os.cpu_count()}")]
    found = beside["memory"]()
    if found is not None:
        total, free = found
        low = "too little for a training run: close other programs" if free < _LOW_MEMORY else ""
        checks.append(Check("memory", f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB", low))
    return checks


def folder(name: str, path: str) -> Check:
    """Finds whether a folder can be written, and what is free there, on a disk."""
    if "://" in path:
        return bucket(name, path)
    place = Path(path).expanduser().absolute()
    above = next(parent for parent in (place, *place.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            free = shutil.disk_usage(above).free
    except OSError as error:
        return Check(name, str(place), f"cannot be written ({error.strerror}): choose another folder")
    low = f"{free / 1e9:.1f} GB free: too little for checkpoints" if free < _LOW_DISK else ""
    new = "" if above == place else ", not made yet"
    return Check(name, f"{place}, writable{new}, {free / 1e9:.0f} GB free", low)


def bucket(name: str, path: str) -> Check:
    """Finds whether a folder in a bucket can be written, which it tries."""
    from auxjax import storage
    from auxjax.errors import AuxjaxError

    try:
        storage.folder(path)
    except AuxjaxError as error:
        return Check(name, path, str(error))
    return Check(name, f"{path}, writable, through gcsfs {_version('gcsfs')}")


def packages() -> list[Check]:
    """Finds the versions of what auxjax requires, against its floors."""
    required = requirements()[""] | {"jaxlib": ""}
    found = ", ".join(f"{name} {_version(name) or 'missing'}" for name in required)
    problems = [problem for name, floor in required.items() if (problem := _too_old(name, floor))]
    return [Check("packages", found, "; ".join(problems))]


def extras() -> list[Check]:
    """Finds which extras are complete, and how to get those that are not."""
    lines = []
    for extra, needed in requirements().items():
        missing = [name for name in needed if _version(name) is None]
        if extra not in ("", "all", "dev"):
            lines.append(f"{extra} (pip install 'auxjax[{extra}]')" if missing else f"{extra} is there")
    return [Check("extras", ", ".join(sorted(lines, key=lambda line: "pip" in line)))]


def requirements() -> dict[str, dict[str, str]]:
    """Returns `{"": {name: floor}, extra: {name: floor}}` from the metadata of the installed package."""
    found: dict[str, dict[str, str]] = {"": {}}
    for line in importlib.metadata.requires("auxjax") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        match = re.match(r"([\w.-]+)(\[[\w,-]+\])?\s*(?:>=\s*([\w.]+))?", line)
        if match is None or match[1] == "auxjax":
            continue
        # jax[tpu] and jax[cuda13] are known by what they bring beside jax.
        plugin = {"[tpu]": "libtpu", "[cuda12]": "jax-cuda12-plugin", "[cuda13]": "jax-cuda13-plugin"}
        found.setdefault(extra[1] if extra else "", {})[plugin.get(match[2] or "", match[1])] = match[3] or ""
    return found


def devices() -> list[Check]:
    """Finds what JAX computes on, and an accelerator that it does not see."""
    import jax

    local = jax.local_devices()
    kinds = sorted({" ".join(dict.fromkeys((device.platform, device.device_kind))) for device in local})
    size = local[0].memory_stats() or {}
    limit = f", {size['bytes_limit'] / 1e9:.0f} GB each" if "bytes_limit" in size else ""
    found = f"{len(local)} x {' and '.join(kinds)}{limit}; processes: {jax.process_count()}"
    chosen = os.environ.get("JAX_PLATFORMS", "")
    return [Check("devices", found, "" if chosen or kinds[0][:3] != "cpu" else unseen(Path("/dev")))]


def unseen(root: Path) -> str:
    """Returns the problem of an accelerator in `root` (/dev) while JAX has only the CPU; empty where there is none."""
    if (root / "nvidia0").exists():
        return "there is an NVIDIA GPU, and JAX sees only the CPU: pip install 'auxjax[cuda13]', or cuda12"
    if (root / "accel0").exists() or ((root / "vfio" / "0").exists() and _version("libtpu")):
        return "there is a TPU, and JAX sees only the CPU: pip install 'auxjax[tpu]', and stop what else uses it"
    return ""


def data_sets() -> list[Check]:
    """Finds the prepared data sets."""
    from auxjax.data.folders import prepared, root

    place = root("")
    names = prepared(place) if place.exists() else []
    how = "" if names else " (python experiments/prepare.py --dataset=digits)"
    return [Check("data sets", f"{', '.join(names) or 'none'} in {place}{how}")]


def environment(variables: Mapping[str, str]) -> Check:
    """Finds the variables that JAX and XLA read; no others, which may be secret."""
    shown = sorted(name for name in variables if name.startswith("JAX_") or name == "XLA_FLAGS")
    return Check("environment", ", ".join(f"{name}={variables[name]}" for name in shown) or "no JAX_*, no XLA_FLAGS")


def train_step() -> list[Check]:
    """Finds how long a PlainNet with one head takes to compile and to make a step on one device."""
    import jax
    import jax.numpy as jnp

    from auxjax import build, check
    from auxjax import config as configs
    from auxjax.state import create_state
    from auxjax.step import train_step as one_step

    config = configs.base()
    config.model = {"name": "plainnet", "depth": 4, "width": 32}
    config.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    program = build.assemble(check.finalize(config), num_classes=10, steps_per_epoch=10, total_steps=10)
    batch = {"image": jnp.ones((8, 8, 8, 1)), "label": jnp.arange(8) % 10}
    key = jax.random.key(0)
    begun = time.perf_counter()
    state = create_state(program, jax.jit(program.attached.init)(key, batch["image"]), key)
    step = jax.jit(one_step)
    state, metrics = jax.block_until_ready(step(state, batch))
    compiled = time.perf_counter() - begun
    begun = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, batch))
    took = time.perf_counter() - begun
    losses = {name: float(value) for name, value in metrics.items() if name.startswith("loss")}
    wrong = "" if all(abs(loss) < float("inf") for loss in losses.values()) else f"losses {losses}: report this output"
    return [Check("train step", f"{took * 1e3:.1f} ms after {compiled:.1f} s to initialise and compile", wrong)]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _too_old(name: str, floor: str) -> str:
    """Returns the problem of a package that is missing or below its floor."""
    wanted, version = f"pip install -U '{name}{'>=' if floor else ''}{floor}'", _version(name)
    if version is None:
        return f"{name} is missing: {wanted}"
    numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in (version, floor)]
    return f"{name} {version} is older than {floor}: {wanted}" if numbers[0] < numbers[1] else ""
