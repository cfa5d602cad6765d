"""Checkpoints hold the whole state, and beside it the tree to ship without any head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

import auxjax
from auxjax import checkpoint, storage
from auxjax.errors import AuxjaxError
from auxjax.heads import Head, LinearProbe
from auxjax.proof import bare_shapes
from auxjax.step import train_step
from tests import small
from tests.equal import equal

STEP = jax.jit(train_step)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make(**fields: Any) -> Any:
    return small.program(small.heads(), dropout_rate=0.5, optimizer=OPTIMIZER, **fields)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Three steps saved one by one, the second scored best, and the state after them."""
    folder = tmp_path_factory.mktemp("run")
    state = small.state(make(ema_decay=0.9))
    with checkpoint.open_manager(folder, keep_last=1, keep_best=1) as manager:
        for step, score in enumerate((0.5, 0.7, 0.6), start=1):
            state, _ = STEP(state, small.batch(seed=step))
            checkpoint.save(manager, state, {"next": step}, score)
    return folder, state


def test_the_whole_state_comes_back_bit_for_bit(saved: Any) -> None:
    folder, state = saved
    with checkpoint.open_manager(folder) as manager:
        restored, position = checkpoint.restore(manager, small.state(state.program, seed=5))  # type: ignore[misc]
    equal(restored, state)
    assert position == {"next": 3}


def test_a_resumed_run_repeats_the_uninterrupted_one(saved: Any) -> None:
    folder, state = saved
    with checkpoint.open_manager(folder) as manager:
        restored, _ = checkpoint.restore(manager, small.state(state.program, seed=5))  # type: ignore[misc]
    equal(STEP(restored, small.batch(seed=4))[0], STEP(state, small.batch(seed=4))[0])


def test_best_and_last_are_kept_and_no_other(saved: Any) -> None:
    with checkpoint.open_manager(saved[0]) as manager:
        assert sorted(manager.all_steps()) == [2, 3]


def test_the_shipped_tree_has_no_head_in_its_file(saved: Any) -> None:
    folder, state = saved
    bare = bare_shapes(state.program.attached.model, jnp.zeros((1, 8, 8, 3)))
    equal(checkpoint.restore_inference(folder, bare), auxjax.strip(state.variables))
    metadata = ocp.StandardCheckpointer().metadata(folder / "checkpoints" / "3" / "inference")
    tree = metadata.item_metadata.tree if hasattr(metadata, "item_metadata") else metadata
    chex.assert_trees_all_equal_structs(jax.tree.map(lambda x: 0, dict(tree)), jax.tree.map(lambda x: 0, bare))
    files = (folder / "checkpoints" / "3" / "inference").rglob("*")
    assert not any(b"aux1" in file.read_bytes() for file in files if file.is_file())


def test_best_is_the_highest_score(saved: Any) -> None:
    folder, state = saved
    bare = bare_shapes(state.program.attached.model, jnp.zeros((1, 8, 8, 3)))
    best, last = (jax.tree.leaves(checkpoint.restore_inference(folder, bare, step)) for step in ("best", "last"))
    assert any((x != y).any() for x, y in zip(best, last, strict=True))
    equal(best, jax.tree.leaves(checkpoint.restore_inference(folder, bare, 2)))
    with pytest.raises(AuxjaxError, match=r"no step 1.*last, best, 2, 3"):
        checkpoint.restore_inference(folder, bare, 1)


def test_a_checkpoint_of_another_model_names_the_difference(saved: Any) -> None:
    other = small.program({"aux1": Head("bn_1", LinearProbe(num_classes=5))}, optimizer=OPTIMIZER)
    with checkpoint.open_manager(saved[0]) as manager, pytest.raises(AuxjaxError, match="another"):
        checkpoint.restore(manager, small.state(other))


def test_an_empty_folder_has_nothing_to_restore(tmp_path: Path) -> None:
    with checkpoint.open_manager(tmp_path) as manager:
        assert checkpoint.restore(manager, small.state(make())) is None
    with pytest.raises(AuxjaxError, match="no checkpoint in"):
        checkpoint.restore_inference(tmp_path / "none", {})


def test_a_relative_workdir_becomes_absolute_and_an_unwritable_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.folder("runs/a") == tmp_path / "runs" / "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(AuxjaxError, match="cannot be written"):
        storage.folder(tmp_path / "file" / "run")
