"""Diagnostics inside training: they change no bit of it, resume with it, and a mistake in their section is one line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auxjax
from auxjax import build, check, metrics
from auxjax import config as configs
from auxjax.errors import AuxjaxError
from tests import digits_runs
from tests.compilations import counted
from tests.digits_runs import interrupted, timeless
from tests.equal import equal

ALL = ("gradient_norm", "similarity", "variance")


def config(data_dir: str, names: tuple[str, ...] = (), every: int = 0, **changes: Any) -> Any:
    """Five steps of a narrower network, with these diagnostics."""
    fewer = {"model.width": 8, "data.eval_batch_size": 360, "train.total_steps": 5, "train.eval_steps": 5}
    given = {"diagnostics.names": names, "diagnostics.every_steps": every}
    return digits_runs.config(data_dir, **fewer | given | changes)


@pytest.mark.multidevice
def test_training_is_the_same_bit_for_bit_and_every_layout_measures_the_same(data_dir: str) -> None:
    first = {}
    for mode, names in (("jit", ALL), ("pmap", ALL[:1]), ("fsdp", ALL[:1])):
        common: dict[str, Any] = {"parallel.mode": mode, "data.augment.flip": False, "train.total_steps": 3}
        plain = auxjax.train(config(data_dir, **common))
        with counted() as lowered:
            measured = auxjax.train(config(data_dir, names, 2, **common))
        equal(measured.state, plain.state)
        assert measured.evaluation == plain.evaluation
        # The step is the very program: only the diagnostics are lowered, each once.
        assert lowered["diagnostic"] + lowered["_fun"] == len(names), lowered
        assert not any(lowered[name] for name in ("run", "training", "step_on", "evaluation")), lowered
        steps = [(record["step"], record["diagnostic"]) for record in measured.diagnostics]
        assert steps == [(step, name) for step in (1, 2, 3) for name in names]
        assert plain.diagnostics == []
        first[mode] = np.array(measured.diagnostics[0]["norm"])
    for mode in ("pmap", "fsdp"):
        np.testing.assert_allclose(first[mode], first["jit"], rtol=1e-3, atol=1e-5)


def test_what_is_measured_is_the_batch_of_the_step(data_dir: str) -> None:
    """The total's norm is the one that the step reports of its own gradient, less what the heads' parameters add."""
    made = config(data_dir, ("gradient_norm",), 1, **{"parallel.num_devices": 1})
    made.heads.aux1.weight = 0.0
    result = auxjax.train(made)
    steps = [record["grad_norm/total"] for record in result.history if record["split"] == "train"]
    norms = [np.linalg.norm(record["norm"][-1]) for record in result.diagnostics]
    np.testing.assert_allclose(norms, steps, rtol=1e-5)


def test_a_resumed_run_has_the_records_of_a_whole_one(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = config(data_dir, ("gradient_norm",), 2, **{"parallel.num_devices": 1})
    with caplog.at_level(logging.INFO, logger="auxjax"):
        whole = auxjax.train(made, tmp_path / "whole")
    assert "diagnostics took" in caplog.text
    # The diagnostics of step 4 are written, and dropped when the run goes on from step 3.
    interrupted(made, tmp_path / "resumed", 3, monkeypatch)
    written = metrics.read(tmp_path / "resumed" / "diagnostics.jsonl")
    assert [r["step"] for r in written] == [1, 2, 4]
    resumed = auxjax.train(made, tmp_path / "resumed")
    equal(resumed.state, whole.state)
    assert timeless(resumed.diagnostics) == timeless(whole.diagnostics)
    lines = (tmp_path / "resumed" / "diagnostics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 4, 5]
    assert all(json.loads(line)["seconds"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diagnostics.names": ("gradient_nrom",), "diagnostics.every_steps": 1}, "did you mean 'gradient_norm'"),
        ({"diagnostics.names": ("variance",)}, "set one of diagnostics.every_steps, diagnostics.every_epochs"),
        (
            {"diagnostics.names": ("variance",), "diagnostics.every_steps": 1, "diagnostics.every_epochs": 1.0},
            "one may",
        ),
        ({"diagnostics.names": ("hessian",), "diagnostics.every_steps": 1}, "unknown diagnostic in training 'hessian'"),
    ],
)
def test_a_mistake_in_the_section_is_one_line(changes: dict[str, Any], message: str) -> None:
    made = configs.base()
    made.update_from_flattened_dict(changes)
    with pytest.raises(AuxjaxError, match=message) as error:
        check.finalize(made)
    assert "\n" not in str(error.value)


def test_names_come_with_commas_and_without_them_a_duration_does_nothing(data_dir: str) -> None:
    made = check.finalize(config(data_dir, ("gradient_norm,variance",), 3))
    assert made.diagnostics.names == ("gradient_norm", "variance")
    assert build.lengths(made, build.data.load(made.data))[2]["diagnostics"] == 3
    assert auxjax.train(config(data_dir, (), 1, **{"train.total_steps": 1})).diagnostics == []
