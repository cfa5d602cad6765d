"""A loss or gradient that is not finite: the run stops, skips the step, or rolls back, and always says whose it was."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import auxjax
from auxjax import batches, checkpoint, report, rollback
from auxjax.data.device import DevicePipeline
from auxjax.errors import AuxjaxError, NotFiniteError
from auxjax.step import train_step
from tests import small
from tests.digits_runs import config, interrupted
from tests.equal import equal


def spoiled(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A batch on which main is finite and aux2 is not: its mask holds a NaN."""
    return batch | {"aux2_mask": batch["aux2_mask"].at[3].set(jnp.nan)}


@pytest.fixture(scope="module")
def skipping() -> Any:
    program = small.program(small.heads(), skips=True, dropout_rate=0.2)
    return small.state(program), jax.jit(train_step, compiler_options=small.AS_SHIPPED)


def test_a_skipped_step_changes_nothing_but_the_count_and_the_step(skipping: Any) -> None:
    state, step = skipping
    state, _ = step(state, small.batch())
    after, metrics = step(state, spoiled(small.batch()))
    assert int(after.step) == int(state.step) + 1
    counts = {"main": 0, "aux1": 0, "aux2": 1, "gradient": 0, "total": 1}
    assert jax.tree.map(int, after.skipped) == {"counts": counts, "in_a_row": 1}
    equal(after.replace(step=state.step, skipped=state.skipped), state)
    assert metrics["skipped/aux2"] == 1 and np.isnan(metrics["loss/aux2"]) and np.isfinite(metrics["loss/main"])
    # Both go on as if the step had not been, but for its number.
    following = step(after, small.batch())[0]
    equal(following.params, step(state.replace(step=after.step), small.batch())[0].params)
    assert int(following.skipped["in_a_row"]) == 0 and int(following.skipped["counts"]["total"]) == 1


def test_finite_steps_are_those_of_a_program_that_does_not_skip(skipping: Any) -> None:
    state, step = skipping
    plain = small.state(small.program(small.heads(), dropout_rate=0.2))
    for seed in range(3):
        state, metrics = step(state, small.batch(seed=seed))
        plain, expected = step(plain, small.batch(seed=seed))
    equal(state.params, plain.params)
    assert {name: value for name, value in metrics.items() if not name.startswith("skipped")} == expected
    assert all(metrics[f"skipped/{name}"] == 0 for name in ("main", "aux1", "aux2", "gradient", "total"))


def poison(monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], most: int = 99) -> None:
    """Makes the loss of aux1 NaN in the steps, at most so many times in all; the compiled step is the same for all."""
    left, take, make = [most], DevicePipeline.__next__, batches.training_batch

    def poisoned(self: DevicePipeline) -> dict[str, np.ndarray]:
        inputs = take(self)
        bad = self.state()["next"] in steps and left[0] > 0
        left[0] -= bad
        return inputs | {"factor": np.full(len(inputs["index"]), np.nan if bad else 1.0, np.float32)}

    def masked(state: Any, resident: Any, inputs: Any, **options: Any) -> Any:
        batch = make(state, resident, {"index": inputs["index"]}, **options)
        return batch | {"aux1_mask": inputs["factor"]}

    monkeypatch.setattr(DevicePipeline, "__next__", poisoned)
    monkeypatch.setattr(batches, "training_batch", masked)


CHANGES = {"heads.aux1.mask": "aux1_mask", "parallel.num_devices": 1, "train.checkpoint_steps": 2, "train.log_steps": 4}


def test_a_run_stops_before_it_saves_what_is_not_finite(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, (3,))
    with pytest.raises(NotFiniteError, match=r"loss/aux1 is nan at step 3") as caught:
        auxjax.train(config(data_dir, **CHANGES | {"train.log_steps": 5}), tmp_path)
    assert caught.value.step == 3 and checkpoint.find_step(tmp_path) == 2
    (seen,) = report.read_runs([tmp_path])
    assert seen.status == "diverged" and seen.problem.startswith("diverged at step 3: loss/aux1 is nan")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(auxjax.load(tmp_path)[2]))


def test_a_run_that_stopped_goes_on_with_rollback_in_the_same_folder(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, (3,), most=2)
    with pytest.raises(NotFiniteError, match=r"go on from the last checkpoint with train.non_finite=rollback"):
        auxjax.train(config(data_dir, **CHANGES), tmp_path)
    result = auxjax.train(config(data_dir, **CHANGES, **{"train.non_finite": "rollback"}), tmp_path)
    assert int(result.state.step) == 6 and (tmp_path / "rollbacks.json").exists()
    assert report.read_runs([tmp_path])[0].status == "done"
    with pytest.raises(AuxjaxError, match=r"train\.non_finite: 'stop' -> 'skip'"):
        auxjax.train(config(data_dir, **CHANGES, **{"train.non_finite": "skip"}), tmp_path)


def test_a_run_skips_and_says_which_head(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison(monkeypatch, (3, 5))
    with caplog.at_level(logging.WARNING, "auxjax"):
        result = auxjax.train(config(data_dir, **CHANGES, **{"train.non_finite": "skip"}), tmp_path)
    assert [record.message for record in caplog.records] == [
        "1 of the 3 steps up to 4 were skipped, not finite: aux1 in 1",
        "1 of the 2 steps up to 6 were skipped, not finite: aux1 in 1",
    ]
    assert result.history[-2]["skipped/total"] == 2 and int(result.state.step) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.variables))


def test_a_run_of_nothing_but_skipped_steps_stops(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, tuple(range(2, 40)))
    made = config(data_dir, **CHANGES, **{"train.non_finite": "skip", "train.total_steps": 36})
    with pytest.raises(NotFiniteError, match=r"4 of the 4 steps up to 12 were skipped, .* the last 11 in a row: lower"):
        auxjax.train(made, tmp_path)


def test_a_run_rolls_back_and_goes_on_at_half_the_rate(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = config(data_dir, **CHANGES, **{"train.non_finite": "rollback", "optimizer.schedule.name": "constant"})
    poison(monkeypatch, (3,), most=1)
    with caplog.at_level(logging.WARNING, "auxjax"):
        result = auxjax.train(made, tmp_path / "run")
    assert caplog.messages == ["loss/aux1 is nan at step 3: rolling back, and on with optimizer.learning_rate=0.05"]
    (noted,) = json.loads((tmp_path / "run" / "rollbacks.json").read_text())
    assert noted["step"] == 3 and noted["learning_rate"] == 0.05 and "loss/aux1" in noted["cause"]
    assert result.config.optimizer.learning_rate == 0.1 and int(result.state.step) == 6

    # Its checkpoint of step 2, gone on from as a run of half the rate that never was another.
    monkeypatch.undo()
    poison(monkeypatch, ())
    again = tmp_path / "again"
    interrupted(made, again, after=2, monkeypatch=monkeypatch)
    halved = made.copy_and_resolve_references()
    halved.optimizer.learning_rate = 0.05
    (again / "config.json").write_text((again / "config.json").read_text().replace(": 0.1,", ": 0.05,", 1))
    expected = auxjax.train(halved, again)
    equal(result.state, expected.state)


def test_a_run_that_no_rollback_helps_ends(data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, (3,))
    monkeypatch.setattr(rollback, "MOST", 1)
    made = config(data_dir, **CHANGES, **{"train.non_finite": "rollback"})
    with pytest.raises(NotFiniteError, match="rolled back 1 times, each to half the learning rate"):
        auxjax.train(made, tmp_path)
    rates = [noted["learning_rate"] for noted in json.loads((tmp_path / "rollbacks.json").read_text())]
    assert rates == [0.05] and checkpoint.find_step(tmp_path) == 2
    with pytest.raises(AuxjaxError, match="give a workdir"):
        auxjax.train(made)
