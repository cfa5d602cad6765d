"""Configs as text and back, durations, differences, and every config file in its two forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from auxjax import check, cli
from auxjax import config as configs
from auxjax.errors import AuxjaxError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
SIZES: dict[str, Any] = {"steps_per_epoch": 40, "batch_size": 32, "total_steps": 200}


def with_heads() -> Any:
    config = configs.base()
    config.heads = {
        "aux1": configs.head("layer_1", "mlp", features=(64, 32), stop_gradient={"from_steps": 3}),
        "aux2": configs.head("layer_2", "linear", weight={"name": "linear_decay", "start": 0.5}),
    }
    config.model = {"name": "plainnet"}
    return check.finalize(config)


def test_json_gives_the_same_config_back() -> None:
    config = with_heads()
    back = configs.from_json(configs.to_json(config))
    assert back.to_dict() == config.to_dict()
    assert back.heads.aux1.features == (64, 32)
    assert list(back.heads) == ["aux1", "aux2"]
    assert back.is_locked
    assert check.finalize(back) == config
    assert configs.to_json(back) == configs.to_json(config)


@pytest.mark.parametrize("text", ["", "{", "not json"])
def test_a_damaged_config_is_one_line(text: str) -> None:
    with pytest.raises(AuxjaxError, match=r"config.json is no JSON \(line 1\)"):
        configs.from_json(text)


def test_a_difference_names_every_changed_key() -> None:
    old, new = with_heads(), with_heads()
    assert configs.difference(old, new) == ""
    new.optimizer.learning_rate = 0.2
    new.heads.aux1.features = (64,)
    with new.unlocked():
        del new.heads["aux2"]
    text = configs.difference(old, new)
    assert "optimizer.learning_rate: 0.1 -> 0.2" in text
    assert "heads.aux1.features: (64, 32) -> (64,)" in text
    assert "heads.aux2.at: 'layer_2' -> 'absent'" in text
    assert "aux1.at" not in text
    assert "\n" not in text


def test_an_empty_section_differs_from_one_with_keys() -> None:
    assert configs.difference({"heads": {}}, {"heads": {"a": 1}}) == "heads: {} -> 'absent', heads.a: 'absent' -> 1"


@pytest.mark.parametrize(
    ("unit", "value", "steps"),
    [
        ("steps", 7, 7), ("epochs", 2.5, 100), ("epochs", 0.001, 1), ("examples", 320, 10), ("percent", 25.0, 50),
        ("percent", 100.0, 200),
    ],
)  # fmt: skip
def test_a_duration_in_each_unit(unit: str, value: float, steps: int) -> None:
    got = configs.duration(configs.durations("eval", **{unit: value}), "eval", **SIZES)
    assert got == steps
    assert type(got) is int


def test_a_duration_is_set_in_exactly_one_unit() -> None:
    both = configs.durations("eval", steps=5, epochs=1.0)
    with pytest.raises(AuxjaxError, match=r"eval_steps=5, eval_epochs=1.0: .* set eval_steps or eval_epochs to 0"):
        configs.duration(both, "eval", **SIZES)
    none = configs.durations("eval")
    with pytest.raises(AuxjaxError, match="set one of eval_steps, eval_epochs, eval_examples, eval_percent"):
        configs.duration(none, "eval", **SIZES)
    assert configs.duration(none, "eval", required=False, **SIZES) == 0
    with pytest.raises(AuxjaxError, match=r"eval_epochs=-1.0 must be positive"):
        configs.duration(configs.durations("eval", epochs=-1.0), "eval", **SIZES)


def test_what_is_due() -> None:
    assert [step for step in range(1, 8) if configs.due(step, 3, 7)] == [3, 6, 7]
    assert [step for step in range(1, 5) if configs.due(step, 1, 4)] == [1, 2, 3, 4]
    assert [step for step in range(1, 5) if configs.due(step, 9, 4)] == [4]


def test_the_base_config_is_locked_and_valid() -> None:
    base = configs.base()
    with pytest.raises(AttributeError, match="batch_size"):
        base.data.batchsize = 1
    assert check.finalize(base).to_dict() == base.to_dict()


@pytest.mark.parametrize("argument", ["", "smoke"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path: Path, argument: str) -> None:
    config = check.finalize(cli.load_config(path, argument))
    if argument:
        steps = configs.duration(config.train, "total", **SIZES)
        assert (steps, config.data.name, config.data.num_workers) == (4, "digits", 0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_another_argument_of_a_config_file_is_one_line(path: Path) -> None:
    with pytest.raises(AuxjaxError, match=r"unknown config argument 'smok'.*smoke"):
        cli.load_config(path, "smok")
