"""safetensors: bit for bit there and back; what is damaged or of something else is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.export import read_tensors, write_tensors
from auxjax.export import tensors as module
from auxjax.export.tensors import save_arrays, save_tree
from tests.export.networks import make
from tests.small import SmallNet

pytest.importorskip("safetensors")
TREE: dict[str, Any] = {
    "params": {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "half": jnp.ones((3,), jnp.bfloat16) / 3},
    "batch_stats": {"a": {"steps": np.int32(7), "empty": np.zeros((0, 2), np.float16)}},
}


def test_a_tree_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_tree(tmp_path / "x", TREE, {"config": "{}"})
    tree, metadata = read_tensors(tmp_path / "x")
    assert metadata == {"config": "{}", "format": "auxjax", "format_version": "1"}
    assert [str(path) for path, _ in _leaves(tree)] == [str(path) for path, _ in _leaves(TREE)]
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE), strict=True):
        assert a.dtype == b.dtype and np.shape(a) == np.shape(b)
        np.testing.assert_array_equal(a, b)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_tree(path, TREE, {})
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:40], whole[:-1], whole + b"x", b"garbage " * 20, b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(AuxjaxError, match="no whole safetensors file") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(AuxjaxError, match="no file"):
        read_tensors(tmp_path / "y")


@pytest.mark.parametrize("names", [("a",), ("a/b", "a/b/c"), ("a/b/c", "a/b"), ("a//b",), ("a/b/",)], ids=str)
def test_names_that_make_no_tree_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    save_arrays(tmp_path / "x", {name: np.zeros(1) for name in names}, module.FORMAT)
    with pytest.raises(AuxjaxError, match="fits in no tree"):
        read_tensors(tmp_path / "x")


def test_files_of_others_and_trees_of_other_things_are_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "x", {"a/b": np.zeros(1)}, {"format": "pt"})
    with pytest.raises(AuxjaxError, match="not of auxjax's format"):
        read_tensors(tmp_path / "x")
    with pytest.raises(AuxjaxError, match="'a/b' in params/"):
        save_tree(tmp_path / "x", {"params": {"a/b": np.zeros(1)}}, {})
    with pytest.raises(AuxjaxError, match="params/a is a str"):
        save_tree(tmp_path / "x", {"params": {"a": "text"}}, {})


def test_a_file_that_reads_back_otherwise_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make(SmallNet(), (8, 8, 3))
    write_tensors(tmp_path / "x", network, {})
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    before = (tmp_path / "x").read_bytes()
    read = module.read_tensors
    monkeypatch.setattr(module, "read_tensors", lambda path: (jax.tree.map(lambda a: a + 1, read(path)[0]), {}))
    with pytest.raises(AuxjaxError, match="was not written right"):
        write_tensors(tmp_path / "x", network, {})
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == before


def _leaves(tree: Any) -> list[Any]:
    return list(jax.tree_util.tree_flatten_with_path(tree)[0])
