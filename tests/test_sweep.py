"""Grids: axes of the command line, sweeps of a config file, and the arms they make, checked before anything trains."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

from auxjax import arms, sweep
from auxjax import config as configs
from auxjax.errors import AuxjaxError


def small(**changes: Any) -> ConfigDict:
    """A PlainNet of four layers with two heads on the digits."""
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 4, "width": 8}
    made.heads = {
        "aux1": configs.head(at="layer_1", kind="linear"),
        "aux2": configs.head(at="layer_2", kind="mlp", features=(8,)),
    }
    made.data.update(batch_size=32)
    made.update_from_flattened_dict(changes)
    return made


@pytest.fixture(scope="module")
def config(data_dir: str) -> ConfigDict:
    return small(**{"data.data_dir": data_dir})


def weights(*values: float) -> list[dict[str, Any]]:
    return sweep.sweep("heads.aux1.weight", values)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("heads.aux1.weight=0,0.1, 1e-2", [0.0, 0.1, 0.01]),
        ("train.total_steps=10,20", [10, 20]),
        ("data.name=digits,mnist", ["digits", "mnist"]),
        ("data.augment.flip=true,False", [True, False]),
        ("heads.aux2.features='64,32',(128,)", [(64, 32), (128,)]),
        ("pretrained.reinitialise='fc,aux1',fc", [("fc", "aux1"), ("fc",)]),
        ("heads.aux1.weight={'name': 'cutoff', 'start': 0.5},0", [{"name": "cutoff", "start": 0.5}, 0.0]),
        ("model.residual=true,false", [True, False]),
        ("weighting.start=0.5,1", [0.5, 1]),
        ("config.seed=3", [3]),
    ],
)
def test_an_axis_has_values_of_its_keys_type(text: str, values: list[Any]) -> None:
    made = sweep.parse_axis(text, small())
    key = text.partition("=")[0].removeprefix("config.")
    assert made == [{key: value} for value in values]
    assert [type(next(iter(changes.values()))) for changes in made] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heads.aux1.weight", "write --axis=heads.aux1.weight=0,0.3"),
        ("heads.aux1.weight=0.1,", "a value is empty"),
        ("heads.aux1.weight=high", "'high' must be float, as 0.3 is"),
        ("train.total_steps=0.5", "'0.5' must be int"),
        ("data.augment.flip=1", "'1' must be bool"),
        ("optimiser.learning_rate=1", "unknown config key 'optimiser.learning_rate'; did you mean 'optimizer'"),
        ("optimizer.learning_rat=1", "did you mean 'optimizer.learning_rate'"),
        ("seed.x=1", "seed is no section"),
        ("heads.aux1.weight={a: 1}", "is no value"),
    ],
)
def test_a_wrong_axis_is_one_line_with_the_nearest_key(text: str, message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        sweep.parse_axis(text, small())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("0,3,7", [0, 3, 7]), ("7,", [7])])
def test_seeds_are_counted_or_listed(text: str, seeds: list[int]) -> None:
    assert sweep.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "", "-1,2", "1,1", "five"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(AuxjaxError, match="--seeds="):
        sweep.parse_seeds(text)


def file_of(**functions: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType("grid")
    vars(module).update(functions)
    return module


def plain() -> Iterator[dict[str, Any]]:
    yield {"seed": 1}
    yield {"config.seed": 2}


def test_sweeps_of_a_file_multiply_by_name_and_with_axes() -> None:
    module = file_of(sweep=plain, sweep_rate=lambda: sweep.sweep("optimizer.learning_rate", [0.1, 0.2]))
    both = sweep.combinations(small(), module, names=["rate", "sweep"], axes=["heads.aux1.weight=0,1"])
    assert len(both) == 8
    assert both[1] == {"optimizer.learning_rate": 0.1, "seed": 1, "heads.aux1.weight": 1.0}
    assert sweep.combinations(small(), module) == [{"seed": 1}, {"seed": 2}]
    assert sweep.combinations(small(), module, axes=["seed=5"]) == [{"seed": 5}]
    assert sweep.combinations(small()) == [{}]
    with pytest.raises(AuxjaxError, match="unknown sweep 'rat'; did you mean 'rate'"):
        sweep.combinations(small(), module, names=["rat"])
    with pytest.raises(AuxjaxError, match=r"neither sweep\(\) nor sweep_rat\(\)"):
        sweep.combinations(small(), None, names=["rat"])
    with pytest.raises(AuxjaxError, match="seed is swept twice"):
        sweep.combinations(small(), module, names=["sweep"], axes=["seed=5"])
    with pytest.raises(AuxjaxError, match="must yield dicts of dotted keys"):
        sweep.combinations(small(), file_of(sweep=lambda: [1]))


def get_hyper(hyper: Any) -> Any:
    """In the manner of big_vision's and scenic's config files."""
    rates = hyper.zipit([
        hyper.sweep("config.optimizer.learning_rate", hyper.discrete([0.1, 0.2])),
        hyper.fixed("config.optimizer.momentum", 0.0, length=2),
    ])  # fmt: skip
    return hyper.chainit([hyper.product([rates, hyper.sweep("config.seed", range(2))]), hyper.product([])])


def test_big_visions_get_hyper_is_read_as_it_stands() -> None:
    made = sweep.combinations(small(), file_of(get_hyper=get_hyper))
    assert made == [
        {"optimizer.learning_rate": rate, "optimizer.momentum": 0.0, "seed": seed}
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ] + [{}]
    with pytest.raises(AuxjaxError, match="zipit of parts of 2, 3 values"):
        sweep.HYPER.zipit([sweep.fixed("a", 0, 2), sweep.fixed("b", 0, 3)])


def test_arms_are_named_by_what_changed_and_grouped_without_the_seed(config: ConfigDict) -> None:
    made = arms.make(config, weights(0.3, 0.5), seeds=[0, 2])
    assert [arm.name for arm in made] == ["heads.aux1.weight=0.3", "heads.aux1.weight=0.5"]
    assert made[0].runs[1].startswith("heads.aux1.weight=0.3,seed=2-")
    assert len({run for arm in made for run in arm.runs}) == 4
    assert [c.seed for c in made[1].configs] == [0, 2]
    assert all(c.heads.aux1.weight == 0.5 for c in made[1].configs)
    elsewhere = arms.apply(small(), {"writers.tensorboard": True, "seed": 9})
    assert arms.group_id(elsewhere) == made[0].group == arms.group_id(made[0].configs[1])
    # The seeds may be swept as any key is; they make one arm.
    numbers = sweep.combinations(config, file_of(sweep=plain))
    swept = arms.make(config, sweep.product([weights(0.3), numbers]))
    assert [(arm.group, [c.seed for c in arm.configs]) for arm in swept] == [(made[0].group, [1, 2])]
    with pytest.raises(AuxjaxError, match="seed is swept twice"):
        arms.make(config, numbers, seeds=[0])


def test_the_same_combination_twice_is_one_run(config: ConfigDict) -> None:
    (arm,) = arms.make(config, weights(0.5, 0.5), seeds=[0])
    assert len(arm.runs) == 1
    assert arm.equal == ()


def test_arms_whose_heads_all_have_weight_0_are_one_wherever_the_heads_sit(config: ConfigDict) -> None:
    grid = sweep.product([
        sweep.sweep("heads.aux1.at", ["layer_1", "layer_3"]), weights(0.0, 0.5), sweep.fixed("heads.aux2.weight", 0.0)
    ])  # fmt: skip
    made = arms.make(config, grid, seeds=[0, 1])
    assert [len(arm.runs) for arm in made] == [2, 2, 2]
    bare = made[0]
    assert bare.overrides == {"heads.aux1.weight": 0.0, "heads.aux2.weight": 0.0}
    assert bare.equal == (grid[0], grid[2])
    # Its name, and so its folder, does not depend on what else is in the grid.
    assert bare.runs == arms.make(config, grid[2:3], seeds=[0, 1])[0].runs
    # One head is enough to tell positions apart, and so is a method, which may look at it.
    assert len(arms.make(config, [{"heads.aux1.at": at} for at in ("layer_1", "layer_3")])) == 2
    methods = [{**changes, "weighting.name": "gcs"} for changes in (grid[0], grid[2])]
    assert len(arms.make(config, methods)) == 2


def test_values_that_refer_to_a_changed_one_follow_it(config: ConfigDict) -> None:
    made = config.copy_and_resolve_references()
    with made.unlocked():
        made.data.eval_batch_size = made.data.get_ref("batch_size") * 2
    assert arms.apply(made, {"data.batch_size": 16}).data.eval_batch_size == 32
    assert made.data.eval_batch_size == 64


def test_a_sweep_may_add_a_head_and_replace_a_section(config: ConfigDict) -> None:
    added = {"heads.aux3.at": "layer_3", "heads.aux3.kind": "linear"}
    assert set(arms.apply(config, added).heads) == {"aux1", "aux2", "aux3"}
    none = arms.apply(config, {"heads": {}})
    assert arms.is_bare(none)
    assert arms.name_of({"heads": {}, "weighting": {"name": "gcs"}}) == "heads=none,weighting=gcs"


def test_all_that_cannot_run_is_told_at_once_and_nothing_more_than_twenty(config: ConfigDict) -> None:
    wrong: list[dict[str, Any]] = [
        {"heads.aux1.at": "layer1"}, {"heads.aux1.weight": -1.0}, {"data.batch_size": 5000},
        {"weighting.name": "gsc"}, {"heads.aux7.weight": 1.0}, {"optimizer.learning_rate": "0.1"},
        {"weighting.name": "gcs", "weighting.trunk": "layer_9"},
    ]  # fmt: skip
    expected = [
        "heads.aux1.at=layer1: .*did you mean 'layer_1'", "must not be negative", "the training split",
        "did you mean .*'gcs'", "unknown head 'aux7'; did you mean", "must be float, not str", "layer_9",
    ]  # fmt: skip
    with pytest.raises(AuxjaxError, match="7 of 8 combinations cannot run") as error:
        arms.make(config, [*wrong, {}])
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 7
    for line, part in zip(lines, expected, strict=True):
        assert re.search(part, line), (part, line)
    with pytest.raises(AuxjaxError, match="and 5 more") as error:
        arms.make(config, weights(*(-1.0 - n for n in range(25))))
    assert len(str(error.value).splitlines()) == 22


def test_names_are_safe_for_a_file_system() -> None:
    name = arms.name_of({"heads.aux1.at": "inception_4a/branch 5x5", "x": "y" * 200})
    assert name.startswith("heads.aux1.at=inception_4a_branch_5x5,x=yyy")
    assert len(name) <= 120
    assert arms.name_of({}) == "base"


@pytest.mark.parametrize(
    ("text", "grid", "rates"),
    [
        ("auto", [{}], [0.033, 0.1, 0.3]), ("config", [{}], []), ("0.5", [{}], [0.5]), ("0.01,0.1", [{}], [0.01, 0.1]),
        ("auto", [{"optimizer.learning_rate": 0.2}], []),
    ],
)  # fmt: skip
def test_learning_rates_are_a_third_one_and_three_times_the_configs(text: str, grid: Any, rates: list[float]) -> None:
    assert sweep.parse_learning_rates(text, configs.base(), grid) == pytest.approx(rates)


@pytest.mark.parametrize("text", ["", "fast", "0.1,0.1", "0.1,-1"])
def test_learning_rates_that_are_none_are_one_line(text: str) -> None:
    with pytest.raises(AuxjaxError, match="must be auto, config, or positive numbers"):
        sweep.parse_learning_rates(text, configs.base(), [{}])
