"""Arms are runs that differ by seed alone, named by what tells them apart, each with the baseline nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from auxjax import config as configs
from auxjax.arms import apply, group_id
from auxjax.errors import AuxjaxError
from auxjax.report import read_runs
from auxjax.report.arms import Arm, is_plain, make_arms, varied
from auxjax.report.runs import flat
from tests.report.made_runs import make_config, make_run


def arms_of(
    folder: Path, *runs: tuple[Mapping[str, tuple[str, float]], dict[str, Any]], seeds: int = 1, baseline: str = "",
    ablation: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Arm], str]:  # fmt: skip
    """The arms, by name, of a run for each (heads, changed keys) and seed."""
    for number, (heads, changes) in enumerate(runs):
        for seed in range(seeds):
            make_run(folder / f"{number}-{seed}", heads, seed, 0.8, points=2, **changes)
    arms, how = make_arms(read_runs([folder]), ablation or {}, baseline)
    return {arm.name: arm for arm in arms}, how


def head(weight: float, at: str = "layer_1") -> dict[str, tuple[str, float]]:
    return {"aux1": (at, weight)}


def test_runs_that_differ_by_seed_and_by_what_changes_no_result_are_one_arm(tmp_path: Path) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"data__data_dir": "/elsewhere"},
        {"writers__tensorboard": True},
        {"train__log_steps": 7},
    )
    arms, _ = arms_of(tmp_path, *((head(0.3), change) for change in changes), seeds=2)
    (arm,) = arms.values()
    assert arm.name == "plainnet, 1 head" and len(arm.runs) == 8 and arm.baseline == arm.name


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_an_arm_has_the_id_that_its_ablation_gives_it(tmp_path: Path, weight: float) -> None:
    (arm,) = arms_of(tmp_path, (head(weight), {}))[0].values()
    base = ConfigDict(configs.tuples(make_config(head(0.5), 7)))
    changed = apply(base, {"heads.aux1.weight": weight, "train.log_steps": 3})
    assert arm.group == group_id(changed) != group_id(apply(base, {}))


def test_a_run_of_a_version_without_some_key_is_in_the_arm_of_those_with_its_default(tmp_path: Path) -> None:
    arms, _ = arms_of(tmp_path, (head(0.3), {}), seeds=2)
    config = tmp_path / "0-0" / "config.json"
    text = config.read_text()
    assert '"num_workers": 0, ' in text
    config.write_text(text.replace('"num_workers": 0, ', ""))
    assert len(make_arms(read_runs([tmp_path]), {})[0]) == len(arms) == 1


def test_a_weighting_of_another_version_has_an_arm_of_its_own(tmp_path: Path) -> None:
    arms, _ = arms_of(tmp_path, (head(0.0), {}), (head(0.0), {"weighting__name": "of_tomorrow"}))
    assert sorted(arms) == ["weighting=constant", "weighting=of_tomorrow"]


def test_names_say_what_differs_and_nothing_else(tmp_path: Path) -> None:
    arms, how = arms_of(tmp_path, (head(0.3), {}), ({}, {}), (head(0.5), {}), (head(0.5, "layer_3"), {}))
    assert list(arms) == ["no heads", "at layer_1, weight 0.3", "at layer_1, weight 0.5", "at layer_3, weight 0.5"]
    assert {arm.baseline for arm in arms.values()} == {"no heads"}
    assert how == "Arms are compared with 'no heads': training without heads."
    assert varied([arm for arm in arms.values() if arm.name != "no heads"]) == ["at", "weight"]


def test_a_key_outside_the_heads_gets_its_shortest_clear_name(tmp_path: Path) -> None:
    rates = [(head(0.3), {"optimizer__learning_rate": rate}) for rate in (0.1, 0.02)]
    arms, how = arms_of(tmp_path, *rates)
    assert list(arms) == ["learning_rate=0.1", "learning_rate=0.02"]  # the baseline, then by size
    assert "compared with the first, 'learning_rate=0.1'" in how


def test_weight_zero_is_a_baseline_under_a_schedule_alone(tmp_path: Path) -> None:
    arms, _ = arms_of(tmp_path, (head(0.3), {}), (head(0.0), {}))
    assert {arm.baseline for arm in arms.values()} == {"weight 0"}
    (run,) = read_runs([tmp_path / "1-0"])
    assert is_plain(flat(run))
    assert not is_plain({**flat(run), "weighting.name": "pcgrad"})


def test_each_arm_is_compared_with_the_plain_arm_of_its_own_network(tmp_path: Path) -> None:
    relu = {"model__activation": "relu"}
    arms, how = arms_of(tmp_path, ({}, {}), (head(0.3), {}), ({}, relu), (head(0.3), relu))
    assert {name: arm.baseline for name, arm in arms.items()} == {
        "no heads, activation=sigmoid": "no heads, activation=sigmoid",
        "no heads, activation=relu": "no heads, activation=relu",
        "at layer_1, activation=sigmoid": "no heads, activation=sigmoid",
        "at layer_1, activation=relu": "no heads, activation=relu",
    }
    assert "whichever has the same other keys" in how


def test_the_same_network_without_heads_is_nearer_than_another_with_the_same_heads_at_weight_zero(
    tmp_path: Path,
) -> None:
    arms, _ = arms_of(tmp_path, ({}, {}), (head(0.0), {"model__activation": "relu"}), (head(0.3), {}))
    (arm,) = (arm for arm in arms.values() if arm.features["activation"] == "sigmoid" and arm.name != arm.baseline)
    assert arm.baseline == "no heads, activation=sigmoid"


def test_the_asked_baseline_comes_before_the_ablations_and_that_before_the_plain_one(tmp_path: Path) -> None:
    arms, _ = arms_of(
        tmp_path, ({}, {}), (head(0.3), {}), (head(0.5), {}), ablation={"baseline": {"heads.aux1.weight": 0.5}}
    )
    assert {arm.baseline for arm in arms.values()} == {"at layer_1, weight 0.5"}
    asked, _ = make_arms(read_runs([tmp_path]), {"baseline": {"heads.aux1.weight": 0.5}}, "at layer_1, weight 0.3")
    assert {arm.baseline for arm in asked} == {"at layer_1, weight 0.3"}
    with pytest.raises(AuxjaxError, match=r"unknown baseline .* did you mean 'at layer_1, weight"):
        make_arms(read_runs([tmp_path]), {}, "at layer_1, weight 0.4")
