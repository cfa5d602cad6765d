"""Figures of what every run records: which exit stands where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auxjax.report import read_runs
from auxjax.report.arms import make_arms
from auxjax.report.curves import exits
from auxjax.report.plots import Plot
from tests.report.made_runs import make_run


def exits_of(folder: Path, *arms: Mapping[str, str]) -> Plot:
    """The figure of an arm for each {head: tap}; every head has 3 points more than the one named before it."""
    for number, taps in enumerate(arms):
        make_run(folder / str(number), {name: (at, 0.3) for name, at in taps.items()}, 0, 0.8, points=2)
    return exits(make_arms(read_runs([folder]), {})[0], "test")


def test_exits_stand_by_the_depth_of_their_taps_and_not_by_their_names(tmp_path: Path) -> None:
    plot = exits_of(tmp_path, {"a": "layer_10", "bb": "layer_9", "c": "layer_2/dense"})
    assert list(plot.categories) == ["c", "bb", "a", "main"]
    (line,) = plot.frames[0].panels[0].series
    assert [round(y) for y in line.y if y is not None] == [62, 59, 56, 80]


def test_exits_stand_in_the_order_of_the_layers_where_it_was_recorded(tmp_path: Path) -> None:
    layers = ["stem", "transition", "dense_2", "dense_10"]
    heads = {"a": "dense_2[0]", "b": "stem#1", "c": "elsewhere", "d": "dense_10.encode", "e": "transition"}
    make_run(tmp_path / "runs" / "0", {name: (at, 0.3) for name, at in heads.items()}, 0, 0.8, points=2)
    records: list[dict[str, Any]] = [{"layers": layers}, {"layers": "stem"}, {"layers": None}, {}]
    lines = [json.dumps({"step": 1, "diagnostic": "similarity", **record}) for record in records]
    (tmp_path / "runs" / "0" / "diagnostics.jsonl").write_text("\n".join(lines) + "\n")
    plot = exits(make_arms(read_runs([tmp_path]), {})[0], "test")
    assert list(plot.categories) == ["b", "e", "a", "d", "c", "main"]


def test_one_head_at_several_taps_is_an_exit_at_each(tmp_path: Path) -> None:
    plot = exits_of(tmp_path, {}, {"aux1": "layer_3"}, {"aux1": "layer_1"}, {"aux1": "layer_1", "aux2": "layer_2"})
    assert list(plot.categories) == ["layer_1 (aux1)", "aux2", "layer_3 (aux1)", "main"]
    lines = {line.arm: list(line.x) for panel in plot.frames[0].panels for line in panel.series}
    assert lines == {"at layer_1": [0, 3], "at layer_3": [2, 3], "at layer_1+layer_2": [0, 1, 3]}
