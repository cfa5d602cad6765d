"""What holds for every test: eight devices made of the CPU, quick compilation, strict shapes, no network."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# JAX reads all of this once, when it is imported. What the caller has set wins (of a repeated flag XLA takes
# the last). Optimisation level 0 compiles in a third of the time; its bits repeat, but are not the default's.
assert "jax" not in sys.modules, "conftest.py must run before anything imports jax"
XLA_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
# So does the older of the two ways to make a loop of several operations, while XLA has both.
XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else ""
os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# A [B] array that meets a [B, 1] one is nearly always a wrong loss.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")


@pytest.fixture(scope="session", autouse=True)
def parsed_flags() -> None:
    """Grain's workers read absl flags, which only absl.app.run parses."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder with the digits prepared in it; read it, write elsewhere."""
    from auxjax import data

    folder = str(tmp_path_factory.mktemp("data"))
    data.prepare("digits", folder)
    return folder
