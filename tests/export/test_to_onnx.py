"""ONNX: onnxruntime gives the same outputs at any batch size; what cannot be converted is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.export import Network, to_onnx, write_onnx
from auxjax.export.network import relative_error
from tests.export.networks import make
from tests.foreign_model import StrangersNet

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("jax2onnx")


def run(path: Path, x: np.ndarray) -> Any:
    session = onnxruntime.InferenceSession(path)
    (declared,) = session.get_inputs()
    assert declared.shape[1:] == list(x.shape[1:]) and isinstance(declared.shape[0], str)
    (logits,) = session.run(["logits"], {"image": x})
    return logits


@pytest.mark.parametrize("name", ["googlenet", "strangers"])
def test_onnxruntime_gives_the_networks_outputs(
    name: str, tmp_path: Path, googlenets: tuple[Network, Network], capsys: pytest.CaptureFixture[str]
) -> None:
    network = googlenets[0] if name == "googlenet" else make(StrangersNet(), (8, 8, 1))
    write_onnx(tmp_path / "file", googlenets[1] if name == "googlenet" else network)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert capsys.readouterr() == ("", "")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    assert relative_error(run(tmp_path / "file", x), jax.jit(network.function)(network.variables, x)) < 1e-4


class Pools(nn.Module):
    """Pools padded by hand, with their arguments by position."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(3, name="dense")(x)
        x = nn.max_pool(x, (3, 3), (2, 2), ((0, 1), (0, 1)))
        x = nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), False)
        x = x + nn.avg_pool(nn.max_pool(x, (2, 2), padding="SAME"), (3, 3), None, "SAME", False)
        return nn.avg_pool(x, (2, 2), (2, 2), ((1, 0), (1, 0)))


def test_pools_keep_their_padding(tmp_path: Path) -> None:
    write_onnx(tmp_path / "file", make(Pools(), (8, 8, 1)))
    assert (tmp_path / "file").exists()


class Odd(nn.Module):
    """Something that only Python can compute, or a computation in bfloat16."""

    half: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(3, dtype=jnp.bfloat16 if self.half else None, name="logits")(x.mean((1, 2)))
        return x if self.half else jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_what_onnx_cannot_take_is_one_line_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuxjaxError, match="computes in float32, not bfloat16"):
        write_onnx(tmp_path / "file", make(Odd(half=True), (4, 4, 1)))
    with pytest.raises(AuxjaxError, match=r"jax2onnx cannot convert this Odd: .*pure_callback"):
        write_onnx(tmp_path / "file", make(Odd(half=False), (4, 4, 1)))

    class Wrong:
        def __init__(self, session: Any) -> None:
            self.get_inputs, self._session = session.get_inputs, session

        def run(self, *args: Any) -> list[Any]:
            return [output * 1.001 for output in self._session.run(*args)]

    session = to_onnx._session
    monkeypatch.setattr(to_onnx, "_session", lambda path: Wrong(session(path)))
    with pytest.raises(AuxjaxError, match="differs from the network"):
        write_onnx(tmp_path / "file", make(SmallDense(), (4, 4, 1)))
    assert not list(tmp_path.iterdir())


class SmallDense(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(3, name="logits")(x.mean((1, 2)))
