"""How fast and how steadily: the table's values, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auxjax import statistics
from auxjax.errors import AuxjaxError
from auxjax.report.content import Content, gather
from auxjax.report.headline import times_by_seed
from tests.report.made_runs import make_ablation, make_two_arms, write_curve


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return make_two_arms(tmp_path)


def texts(content: Content, arm: str) -> dict[str, str]:
    """An arm's row by column, without intervals."""
    row = content.progress_table.rows[content.progress_table.marks.index(arm)]
    labels = [column.label for column in content.progress_table.columns]
    return {label: cell.text.partition(" [")[0] for label, cell in zip(labels, row, strict=True)}


def test_a_table_by_hand(runs: Path) -> None:
    content = gather([runs], targets=[0.7, 0.75, 0.99, 0.8])
    # Mean heights: (0.55 + 0.65 + 0.75) / 3 and, of the middle seed, (0.65 + 0.725 + 0.79) / 3.
    assert texts(content, "no heads") == {
        "arm": "no heads", "steps to 70 %": "300 (5 of 5)", "sooner to 70 %": "-", "steps to 75 %": "400 (5 of 5)",
        "sooner to 75 %": "-", "steps to 99 %": "not reached (0 of 5)", "steps to 80 %": "400 (5 of 5)",
        "sooner to 80 %": "-", "area, %": "65.00", "gap, points": "+10.00", "collapsed": "0 of 5",
    }  # fmt: skip
    assert texts(content, "at layer_1") == {
        "arm": "at layer_1", "steps to 70 %": "200 (5 of 5)", "sooner to 70 %": "1.50x",
        "steps to 75 %": "300 (5 of 5)", "sooner to 75 %": "1.33x", "steps to 99 %": "not reached (0 of 5)",
        "steps to 80 %": "400 (5 of 5)", "sooner to 80 %": "1.00x", "area, %": "72.17", "gap, points": "+7.00",
        "collapsed": "0 of 5",
    }  # fmt: skip
    assert "steps to 80 %" in [column.label for column in content.table.columns], "the last target is the headline's"


def test_a_run_that_collapses_counts_as_it_is(runs: Path) -> None:
    write_curve(runs / "heads0", [0.5, 0.1, 0.1, 0.1])
    (runs / "heads1" / "FAILED").write_text(json.dumps({"error": "loss is nan", "step": 201, "status": "diverged"}))
    (runs / "heads1" / "DONE").unlink()
    lines = (runs / "heads1" / "metrics.jsonl").read_text().splitlines()
    (runs / "heads1" / "metrics.jsonl").write_text("\n".join(lines[:4]) + "\n")
    (runs / "heads2" / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    (runs / "heads2" / "DONE").unlink()
    found = texts(gather([runs], targets=[0.7]), "at layer_1")
    assert found["collapsed"] == "2 of 4", "of the run that is not finished nothing is known"
    # 0.5 to 0.1 and on at 0.1; 0.6 to 0.7 and then at chance; two runs as they are.
    areas = [(0.3 + 0.1 + 0.1) / 3, (0.65 + 0.1 + 0.1) / 3, (1.375 + 0.795) / 3, (1.375 + 0.8) / 3]
    assert float(found["area, %"]) == pytest.approx(100 * sum(areas) / 4, abs=0.005)


def test_speed_has_a_map_of_its_own(tmp_path: Path) -> None:
    content = gather([make_ablation(tmp_path / "ablation", points=20)], targets=[0.7])
    plots = {plot.name: plot for plot in content.plots}
    grid, other = (plots[name].frames[0].panels[0].grid for name in ("speed_map", "heat_map"))
    assert grid is not None and other is not None
    assert (grid.rows, grid.columns) == (other.rows, other.columns)
    for row in content.headline.rows[1:]:
        assert row.speed_up is not None and row.speed_up.ratio is not None
        place = grid.rows.index(row.arm.features["at"]), grid.columns.index(str(row.arm.features["weight"]))
        value = grid.values[place[0]][place[1]]
        assert value is not None and 2**value == pytest.approx(row.speed_up.ratio.value)
        assert grid.hatched[place[0]][place[1]] == (row.speed_up.ratio.low <= 1 <= row.speed_up.ratio.high)


def test_intervals_of_speed_ups_allow_for_the_number_of_arms(tmp_path: Path) -> None:
    """Four arms against one baseline: each at 98.75 %, so that all cover at 95 %."""
    content = gather([make_ablation(tmp_path / "ablation", points=20)], targets=[0.7])
    arms = {arm.name: arm for arm in content.arms}
    reached = {name: times_by_seed(arm, "test", "accuracy/main", 0.7, 600) for name, arm in arms.items()}
    column = [column.label for column in content.progress_table.columns].index("sooner to 70 %")
    shown = [row.speed_up for row in content.headline.rows if not row.is_baseline]
    assert len(shown) == 4
    wider = []
    for row, found in zip(content.headline.rows[1:], shown, strict=True):
        expected = statistics.speed_up(reached[row.arm.baseline], reached[row.arm.name], 0.9875)
        assert found == expected and expected.ratio is not None
        narrow = statistics.speed_up(reached[row.arm.baseline], reached[row.arm.name]).ratio
        assert narrow is not None
        wider.append(expected.ratio.high / narrow.high)
        cell = content.progress_table.rows[content.progress_table.marks.index(row.arm.name)][column]
        assert cell.text.endswith(f"{expected.ratio.high:.2f}]")
    assert min(wider) >= 1 and max(wider) > 1.01, "where all seeds have one ratio the interval is a point"


def test_every_heads_loss_has_a_curve(tmp_path: Path) -> None:
    content = gather([make_ablation(tmp_path / "ablation", points=5)])
    frames = {frame.label: frame for frame in content.plots[0].frames}
    assert list(frames) == [
        "accuracy of main on test", "loss of main on test", "loss of main on training batches",
        "loss of aux1 on test", "loss of aux1 on training batches",
    ]  # fmt: skip
    arms = {line.arm for panel in frames["loss of aux1 on test"].panels for line in panel.series}
    assert arms == {arm.name for arm in content.arms if arm.name != arm.baseline}


def test_no_target_is_an_error(runs: Path) -> None:
    with pytest.raises(AuxjaxError, match="no target given"):
        gather([runs], targets=[])
