"""Arms at their own best learning rate: chosen on validation, told in words and in a figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auxjax.report.content import gather
from tests.report.made_runs import make_run

RATES = (0.03, 0.1, 0.3)
HEADS = {"aux1": ("layer_1", 0.3)}


def write(folder: Path, tuned: str = "optimizer.learning_rate", split: str = "validation") -> Path:
    """Plain training is best at 0.1, with a head at 0.3; a rate's test result is its validation's."""
    finals = {"plain": (0.7, 0.8, 0.6), "head": (0.7, 0.75, 0.85)}
    for name, by_rate in finals.items():
        for rate, final in zip(RATES, by_rate, strict=True):
            for seed in range(5):
                made = make_run(
                    folder / "runs" / f"{name},{rate},{seed}", HEADS if name == "head" else {}, seed,
                    final + 0.001 * seed, split=split, optimizer__learning_rate=rate,
                )  # fmt: skip
                assert (made / "config.json").exists()
    (folder / "ablation.json").write_text(json.dumps({"tuned": tuned, "base": {"optimizer.learning_rate": 0.1}}))
    return folder


def test_each_arm_is_compared_at_its_own_best_rate(tmp_path: Path) -> None:
    content = gather([write(tmp_path)])
    assert {arm.config["optimizer.learning_rate"] for arm in content.arms if not arm.config.get("heads.aux1.at")} == {
        0.1
    }
    assert {arm.config["optimizer.learning_rate"] for arm in content.arms if arm.config.get("heads.aux1.at")} == {0.3}
    assert len(content.arms) == 2 and len(content.runs) == 30
    verdict = content.headline.rows[1].verdict
    assert verdict is not None and verdict.paired.difference.value == pytest.approx(0.05)
    assert any("chosen among 0.03, 0.1, 0.3" in rule for rule in content.rules)
    assert any("common rate 0.1" in rule and "at layer_1: -5.00 [" in rule for rule in content.rules)
    assert not any("All arms train with the learning rate" in sentence for sentence in content.unsupported)
    (figure,) = [plot for plot in content.plots if plot.name == "learning_rates"]
    lines = {line.label: line for line in figure.frames[0].panels[0].series}
    assert [list(line.x) for line in lines.values()] == [list(RATES)] * 2
    assert max(next(iter(lines.values())).y, key=lambda y: y or 0) == pytest.approx(80.2)


def test_the_test_split_chooses_nothing(tmp_path: Path) -> None:
    content = gather([write(tmp_path, split="test")])
    assert len(content.arms) == 6
    assert any("no validation split chooses one" in rule for rule in content.rules)


def test_an_ablation_that_tuned_nothing_keeps_its_arms(tmp_path: Path) -> None:
    content = gather([write(tmp_path, tuned="")])
    assert len(content.arms) == 6 and not any(plot.name == "learning_rates" for plot in content.plots)


def write_grid(folder: Path, rates: tuple[float, ...] = (0.1, 0.3)) -> Path:
    """Two layers by two weights; layer_3 at 0.3 alone is best at rate 0.3, everything else at 0.1; gains of 1 and 3."""
    arms = {"plain": {"aux1": ("layer_1", 0.0)}}
    arms |= {f"{at},{weight}": {"aux1": (at, weight)} for at in ("layer_1", "layer_3") for weight in (0.1, 0.3)}
    for name, heads in arms.items():
        for rate in rates:
            best = 0.3 if name == "layer_3,0.3" else 0.1
            for seed in range(2):
                final = 0.8 + 0.01 * seed - (0.0 if rate == best else 0.1)
                final += 0.0 if name == "plain" else 0.01 + 0.02 * seed
                make_run(
                    folder / "runs" / f"{name},{rate},{seed}", heads, seed, final, split="validation", points=3,
                    optimizer__learning_rate=rate,
                )  # fmt: skip
    tuned = "optimizer.learning_rate" if len(rates) > 1 else ""
    described = {"tuned": tuned, "base": {"optimizer.learning_rate": 0.1}}
    (folder / "ablation.json").write_text(json.dumps(described))
    return folder


def test_a_rate_that_was_chosen_is_no_axis_of_the_heat_map(tmp_path: Path) -> None:
    content = gather([write_grid(tmp_path)])
    assert len({arm.config["optimizer.learning_rate"] for arm in content.arms}) == 2
    (plot,) = [plot for plot in content.plots if plot.name == "heat_map"]
    (panel,) = plot.frames[0].panels
    assert panel.title == "" and panel.grid is not None
    assert (panel.grid.rows, panel.grid.columns) == (["layer_1", "layer_3"], ["0.1", "0.3"])
    assert [value for row in panel.grid.values for value in row] == pytest.approx([2.0] * 4)


def test_at_the_common_rate_differences_and_names_are_those_of_that_rate_alone(tmp_path: Path) -> None:
    alone = gather([write_grid(tmp_path / "alone", rates=(0.1,))])
    column = [column.label for column in alone.table.columns].index("difference, points")
    told = [f"{row[0].text}: {row[column].text}" for row in alone.table.rows[1:]]
    expected = f"With every arm at the common rate 0.1, differences in points are: {'; '.join(told)}."
    assert expected in gather([write_grid(tmp_path / "tuned")]).rules
