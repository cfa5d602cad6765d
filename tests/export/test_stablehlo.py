"""StableHLO: runs where auxjax cannot be imported, at any batch size; a wrong file is removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.export import Network, stablehlo, write_stablehlo
from tests.export.networks import make
from tests.small import SmallNet

pytest.importorskip("flatbuffers")
PROGRAM = """
import sys
sys.modules["auxjax"] = sys.modules["flax"] = None
import jax, numpy
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert tuple(exported.platforms) == ("cpu", "cuda", "tpu"), exported.platforms
x = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], exported.call(x))
"""


def test_another_process_runs_it_without_auxjax(tmp_path: Path, googlenets: tuple[Network, Network]) -> None:
    network, folded = googlenets
    write_stablehlo(tmp_path / "file", folded)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", PROGRAM, *(str(tmp_path / name) for name in ("file", "x.npy", "y.npy"))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    expected = np.asarray(jax.jit(network.function)(network.variables, x))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4 * np.abs(expected).max())


class DependsOnBatch(nn.Module):
    """Asks for the batch size, which a symbolic one cannot answer."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(2, name="logits")(x.mean((1, 2)) * (2 if x.shape[0] > 2 else 1))


def test_a_model_that_needs_the_batch_size_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AuxjaxError, match="DependsOnBatch depends on the batch size"):
        write_stablehlo(tmp_path / "file", make(DependsOnBatch(), (4, 4, 1)))


def test_a_file_that_runs_otherwise_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make(SmallNet(), (8, 8, 3))
    run = stablehlo._run
    monkeypatch.setattr(stablehlo, "_run", lambda path, x: np.asarray(run(path, x)) * 1.001)
    with pytest.raises(AuxjaxError, match="differs from the network"):
        write_stablehlo(tmp_path / "file", network)
    assert not list(tmp_path.iterdir())
