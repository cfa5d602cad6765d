"""train(): from a config to a folder that resumes bit for bit, compiles once, and ships without heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import auxjax
from auxjax import config as configs
from auxjax import metrics
from auxjax.errors import AuxjaxError
from tests.compilations import counted
from tests.digits_runs import config, interrupted, timeless
from tests.equal import equal


@pytest.fixture(scope="module")
def finished(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> auxjax.Result:
    return auxjax.train(config(data_dir), tmp_path_factory.mktemp("finished"))


@pytest.mark.parametrize(
    ("cache", "steps"),
    [
        ("device", (1,)), ("host", (2, 5)), pytest.param("device", (2, 5), marks=pytest.mark.slow_study),
        pytest.param("host", (1,), marks=pytest.mark.slow_study),
    ],
)  # fmt: skip
def test_a_run_interrupted_after_any_step_ends_with_the_same_bits(
    cache: str, steps: tuple[int, ...], data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(data_dir, **{"data.cache": cache})
    whole = auxjax.train(made, tmp_path / "whole")
    for last in steps:
        interrupted(made, tmp_path / "resumed", last, monkeypatch)
    resumed = auxjax.train(made, tmp_path / "resumed")
    equal(resumed.state, whole.state)
    assert resumed.evaluation == whole.evaluation
    assert timeless(resumed.history) == timeless(whole.history)
    assert [(r["step"], r["split"]) for r in metrics.read(tmp_path / "resumed" / "metrics.jsonl")] == [
        (r["step"], r["split"]) for r in whole.history
    ]


def test_the_step_and_the_evaluation_compile_once(data_dir: str) -> None:
    made = config(
        data_dir, **{"train.total_steps": 0, "train.total_epochs": 2.0, "model.width": 24, "train.eval_steps": 20}
    )
    with counted() as lowered:
        auxjax.train(made)
    assert lowered["training"] == 1, lowered
    assert lowered["evaluation"] == 1, lowered
    made.seed = 1
    with counted() as lowered:
        auxjax.train(made)
    assert lowered["training"] == lowered["evaluation"] == 0, lowered


def test_the_folder_tells_what_ran(finished: auxjax.Result) -> None:
    folder = finished.workdir
    assert folder is not None
    names = {path.name for path in folder.iterdir()}
    written = {"config.json", "overrides.json", "versions.json", "dataset.json", "metrics.jsonl"}
    assert names == written | {"checkpoints", "DONE"}
    assert configs.difference(configs.from_json((folder / "config.json").read_text()), finished.config) == ""
    assert json.loads((folder / "overrides.json").read_text())["model.depth"] == 2
    assert json.loads((folder / "DONE").read_text())["accuracy/main"] == finished.evaluation["accuracy/main"]
    records = [r for r in finished.history if r["split"] == "train"]
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert {"loss/main", "loss/aux1", "weighted/aux1", "weight/aux1", "accuracy/main"} <= set(records[0])


def test_a_finished_run_is_not_run_again(finished: auxjax.Result) -> None:
    with counted() as lowered:
        again = auxjax.train(finished.config, finished.workdir)
    assert lowered["training"] == 0
    equal(again.state, finished.state)
    assert again.evaluation == finished.evaluation
    assert [r["step"] for r in again.history] == [r["step"] for r in finished.history]


def test_load_gives_the_bare_model_and_what_it_needs(finished: auxjax.Result) -> None:
    assert finished.workdir is not None
    _, model, variables = auxjax.load(finished.workdir)
    assert isinstance(model, nn.Module)
    equal(variables, finished.variables)
    logits: Any = model.apply(variables, jnp.zeros((2, 8, 8, 1)), train=False)
    assert jnp.shape(logits) == (2, 10)


def test_a_run_is_loaded_with_its_heads(finished: auxjax.Result) -> None:
    assert finished.workdir is not None
    _, attached, variables = auxjax.load_attached(finished.workdir)
    equal(variables, finished.state.variables)
    outputs = attached.apply(variables, jnp.zeros((2, 8, 8, 1)), train=False, heads=("aux1",))
    assert {name: logits.shape for name, logits in outputs.items()} == {"main": (2, 10), "aux1": (2, 10)}
    with pytest.raises(AuxjaxError, match=r"no step 7 in .*; there are: last, best, "):
        auxjax.load_attached(finished.workdir, 7)


def test_averaged_parameters_are_loaded_where_a_run_has_them_and_heads_may_be_distilled(
    data_dir: str, tmp_path: Path
) -> None:
    changes = {"optimizer.ema_decay": 0.5, "train.total_steps": 2, "heads.aux1.loss": "distill"}
    result = auxjax.train(config(data_dir, **changes), tmp_path)
    _, attached, variables = auxjax.load_attached(tmp_path)
    equal(variables["params"], result.state.ema_params)
    assert attached.heads["aux1"].loss == "distill"
    changed = json.loads((tmp_path / "config.json").read_text())
    changed["model"]["width"] = 17
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(AuxjaxError, match=r"has a checkpoint of another model: ema_params/.* expected") as error:
        auxjax.load_attached(tmp_path)
    assert "\n" not in str(error.value)


def test_evaluating_from_disk_gives_the_same_numbers(finished: auxjax.Result) -> None:
    assert finished.workdir is not None
    scores = auxjax.evaluate(finished.workdir)
    assert scores["accuracy/main"] == finished.evaluation["accuracy/main"]
    np.testing.assert_allclose(scores["loss/main"], finished.evaluation["loss/main"], rtol=1e-6)
    with pytest.raises(AuxjaxError, match=r"no split 'tset'.*did you mean 'test'"):
        auxjax.evaluate(finished.workdir, "tset")


def test_evaluation_counts_the_whole_split(finished: auxjax.Result) -> None:
    correct = finished.evaluation["accuracy/main"] * 355
    assert abs(correct - round(correct)) < 1e-6


def test_a_validation_split_is_evaluated_in_place_of_the_test_split(data_dir: str) -> None:
    result = auxjax.train(config(data_dir, **{"data.validation_examples": 100, "train.total_steps": 2}))
    assert [r["split"] for r in result.history] == ["train", "train", "validation", "test"]


def test_a_workdir_of_another_config_shows_the_difference(finished: auxjax.Result, data_dir: str) -> None:
    with pytest.raises(AuxjaxError, match=r"another config: optimizer.learning_rate: 0.1 -> 0.2"):
        auxjax.train(config(data_dir, **{"optimizer.learning_rate": 0.2}), finished.workdir)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_head(data_dir: str) -> None:
    made = config(data_dir, **{"optimizer.learning_rate": 1e38})
    made.model = {"name": "plainnet", "depth": 2, "width": 16, "activation": "relu"}
    with pytest.raises(AuxjaxError, match=r"loss/aux1 is (nan|inf) at step \d: lower"):
        auxjax.train(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 2000}, "batch_size=2000, and the training split"),
        ({"data.name": "digit"}, "data set 'digit'.*did you mean 'digits'"),
        ({"heads.aux1.at": "layer1"}, "no tap 'layer1' in PlainNet; did you mean 'layer_1'"),
        ({"parallel.num_devices": 3}, "batch_size=32 is not divisible by 3 devices; the nearest that is: 33"),
        ({"optimizer.accumulate": 3}, "not divisible by .*microbatches"),
    ],
)
def test_what_cannot_run_is_one_line_before_any_step(
    changes: dict[str, Any], message: str, data_dir: str, tmp_path: Path
) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        auxjax.train(config(data_dir, **changes), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.multidevice
@pytest.mark.parametrize("mode", ["jit", "pmap", "fsdp"])
def test_every_layout_trains_saves_and_resumes(mode: str, data_dir: str, tmp_path: Path) -> None:
    common = {"data.augment.flip": False, "train.total_steps": 2}
    made = config(data_dir, **common, **{"parallel.mode": mode})
    one = auxjax.train(config(data_dir, **common, **{"parallel.num_devices": 1}))
    many = auxjax.train(made, tmp_path)
    for x, y in zip(jax.tree.leaves(many.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    again = auxjax.train(made, tmp_path)
    equal(again.state, many.state)
