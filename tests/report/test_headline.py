"""The tables' values, worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from auxjax.errors import AuxjaxError
from auxjax.report.content import Content, gather
from auxjax.report.tables import Cell, engineering, markdown, runs_csv
from tests.report.made_runs import make_ablation, make_run, make_two_arms

HEADS = {"aux1": ("layer_1", 0.3)}


def cells(content: Content, arm: str) -> dict[str, Cell]:
    """The headline's cells of an arm by column."""
    row = content.table.rows[content.table.marks.index(arm)]
    return {column.label: cell for column, cell in zip(content.table.columns, row, strict=True)}


@pytest.fixture
def two_arms(tmp_path: Path) -> Path:
    return make_two_arms(tmp_path)


def test_a_headline_by_hand(two_arms: Path) -> None:
    content = gather([two_arms], targets=[0.7])
    plain, arm = cells(content, "no heads"), cells(content, "at layer_1")
    assert plain["test accuracy, %"].text.startswith("80.00") and arm["test accuracy, %"].sort == pytest.approx(83.0)
    assert plain["difference, points"].text == "-"
    # Differences 1..5: mean 3, standard error sqrt(2.5 / 5), t(4) = 2.776: 3 -+ 1.963; all of one sign: p = 2 / 2^5.
    assert arm["difference, points"].text == "+3.00 [+1.04, +4.96]"
    assert arm["p"] == Cell("0.062 (least)", 0.0625)
    assert (plain["steps to 70 %"].text, arm["steps to 70 %"].text) == ("300 (5 of 5)", "200 (5 of 5)")
    assert arm["speed-up"].text.startswith("1.50x")
    assert (plain["step time"].text, arm["step time"].text) == ("1.00x", "1.25x")
    assert plain["cost to 70 %"].text.startswith("3 s, ") and arm["cost to 70 %"].text.startswith("2.5 s, ")
    assert content.supported[0][:2] == ("at layer_1", "helped")


def test_parameters_and_flops_by_hand(two_arms: Path) -> None:
    """PlainNet of width 16 on 64 pixels: 64-16-16-16-16-16-10; a linear head on 16 features."""
    content = gather([two_arms])
    shipped = (64 * 16 + 16) + 4 * (16 * 16 + 16) + (16 * 10 + 10)
    costs = {row.arm.name: row.costs for row in content.headline.rows}
    plain, arm = costs["no heads"], costs["at layer_1"]
    assert plain is not None and arm is not None
    assert plain.stripped_params == plain.train_params == arm.stripped_params == shipped
    assert arm.train_params == shipped + 16 * 10 + 10
    assert plain.stripped_flops == arm.stripped_flops == 2 * (64 * 16 + 4 * 16 * 16 + 16 * 10)
    # A layer's backward pass is its forward pass twice; the first needs no gradient of its input, main's head does.
    forward = plain.stripped_flops
    # The dot product of losses and weights is counted too: two FLOPs a loss and a step.
    assert plain.train_flops == pytest.approx(3 * forward - 2 * 64 * 16, abs=0.5)
    assert arm.train_flops == pytest.approx(plain.train_flops + 3 * 2 * 16 * 10, abs=0.5)
    assert cells(content, "at layer_1")["parameters shipped"].text == f"{shipped:,} (+170)"


def test_without_the_data_sets_shape_there_are_no_costs(two_arms: Path) -> None:
    for folder in two_arms.iterdir():
        (folder / "dataset.json").unlink()
    labels = [column.label for column in gather([two_arms]).table.columns]
    assert "parameters shipped" not in labels and "step FLOPs" not in labels and "step time" in labels


def test_runs_that_never_arrive_are_censored_and_said(two_arms: Path) -> None:
    content = gather([two_arms], targets=[0.825])
    assert cells(content, "no heads")["steps to 82.5 %"].text == "not reached (0 of 5)"
    assert cells(content, "at layer_1")["steps to 82.5 %"].text == "400 (3 of 5)"
    assert any(text.startswith("No run reached 82.5 %: no heads.") for text in content.unsupported)
    assert any("nothing is said about speed" in text for text in gather([two_arms], targets=[0.99]).unsupported)


def test_what_the_data_do_not_support(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"plain{seed}", {}, seed, 0.8, points=5)
        make_run(tmp_path / f"heads{seed}", HEADS, seed + 1, 0.81, points=5)
    (make_run(tmp_path / "late", HEADS, 9, 0.8, stop=0) / "FAILED").write_text('{"error": "out of memory", "step": 3}')
    make_run(tmp_path / "running", HEADS, 10, 0.8, stop=300)
    (make_run(tmp_path / "torn", HEADS, 11, 0.8) / "config.json").write_text("{")
    content = gather([tmp_path])
    text = "\n".join(content.unsupported)
    for expected in (
        "Too few runs to judge by (3, where 5 is the least): no heads; at layer_1.",
        "Seeds without a partner count in no difference between at layer_1 and no heads: 0, 3.",
        "No validation split was held out",
        "All arms train with the learning rate 0.1",
        "1 of 9 runs failed: late (failed at step 3: out of memory).",
        "1 of 9 runs are damaged: torn (config.json is no JSON).",
        "1 of 9 runs are not finished: running (unfinished at step 300 of 600).",
    ):
        assert expected in text
    assert cells(content, "at layer_1")["n"].text == "3"
    assert "p" not in [column.label for column in content.table.columns]
    assert len(content.runs_table.rows) == 9


def test_arms_without_a_common_seed_get_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "plain", {}, 0, 0.8)
    make_run(tmp_path / "heads", HEADS, 1, 0.8)
    content = gather([tmp_path])
    assert content.supported == []
    assert any("shares no seed" in text for text in content.unsupported)


def test_of_two_runs_with_one_seed_the_first_counts_and_it_is_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {}, 0, 0.8)
    make_run(tmp_path / "b", {}, 0, 0.9)
    content = gather([tmp_path])
    assert content.headline.rows[0].value is not None and content.headline.rows[0].value.value == 0.8
    assert any("several runs of seed 0" in text for text in content.unsupported)


def test_a_validation_split_gives_the_curves_and_the_choice(tmp_path: Path) -> None:
    content = gather([make_ablation(tmp_path / "ablation", split="validation", points=10)])
    assert content.headline.curve_split == "validation"
    assert content.supported[-1][:2] == ("at layer_3, weight 0.3", "chosen on validation")
    assert not any("No validation split" in text for text in content.unsupported)
    assert content.plots[0].frames[0].label == "accuracy of main on validation"


def test_a_lower_loss_is_better(two_arms: Path) -> None:
    for folder in two_arms.iterdir():
        text = (folder / "DONE").read_text()
        lower = 0.5 if folder.name.startswith("heads") else 1.0
        (folder / "DONE").write_text(json.dumps({**json.loads(text), "loss/main": lower + 0.01 * int(folder.name[-1])}))
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 400, "split": "test", "loss/main": lower}) + "\n")
    content = gather([two_arms], metric="loss/main", targets=[0.6])
    assert content.supported[0][1] == "helped"
    assert cells(content, "at layer_1")["difference"].text == "-0.5000 [-0.5000, -0.5000]"
    assert cells(content, "at layer_1")["steps to 0.6"].text == "400 (5 of 5)"


def test_unknown_metrics_and_splits_name_what_there_is(two_arms: Path) -> None:
    with pytest.raises(AuxjaxError, match="did you mean 'accuracy/main'"):
        gather([two_arms], metric="accuracy/mian")
    with pytest.raises(AuxjaxError, match="no run recorded split 'tset'; did you mean 'test'"):
        gather([two_arms], split="tset")


def test_the_heat_map_hatches_what_covers_zero(tmp_path: Path) -> None:
    content = gather([make_ablation(tmp_path / "ablation", points=5)])
    grid = next(plot for plot in content.plots if plot.name == "heat_map").frames[0].panels[0].grid
    assert grid is not None
    assert (grid.rows, grid.columns) == (["layer_1", "layer_3"], ["0.1", "0.3"])
    assert grid.hatched == [[True, False], [False, False]]
    # Gains of 0, 1, 2 and 3 points, and the mean of 0, 1, 2, 0, 1 (seeds 0 to 4) or 1, 2, 0, 1, 2 tenths.
    assert [value for row in grid.values for value in row] == pytest.approx([0.08, 1.12, 2.08, 3.12])
    assert grid.texts[0] == ["+0.1 (n=5)", "+1.1 (n=5)"]


def test_a_csv_has_a_row_a_run_and_starts_no_formula(two_arms: Path) -> None:
    (two_arms / "plain0").rename(two_arms / "=cmd|' calc'!A0")
    content = gather([two_arms])
    rows = list(csv.DictReader(io.StringIO(runs_csv(content.runs, content.arms))))
    assert len(rows) == 10 and "'=cmd|' calc'!A0" in [row["run"] for row in rows]
    row = next(row for row in rows if row["run"] == "heads3")
    assert (row["arm"], row["seed"], row["status"], row["last_step"]) == ("at layer_1", "3", "done", "400")
    assert (row["model.width"], row["accuracy/main"]) == ("16", str(0.81 + 0.03))


def test_markdown_keeps_its_columns_whatever_a_run_is_called(two_arms: Path) -> None:
    (two_arms / "plain0").rename(two_arms / "a|b<script>")
    lines = markdown(gather([two_arms]).runs_table).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1 and len(lines) == 12
    assert "<script>" not in "\n".join(lines)


@pytest.mark.parametrize(("value", "text"), [(999.0, "999"), (4416.0, "4.416 k"), (3.2e9, "3.2 G"), (0.0, "0")])
def test_counts_in_words(value: float, text: str) -> None:
    assert engineering(value) == text
