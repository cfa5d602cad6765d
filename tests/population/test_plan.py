"""Which members share a program, and which of their keys are its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from auxjax import config as configs
from auxjax.config import flatten
from auxjax.population import plan
from auxjax.population.numbers import NUMBERS, OFF, number_keys
from auxjax.population.plan import numbers_of
from tests.population.made import config

DYNAMIC = {"name": "gradnorm"}


def groups(data_dir: str, *changes: dict[str, Any]) -> list[tuple[int, ...]]:
    return [group.members for group in plan([config(data_dir, **change) for change in changes])]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", (0, 1)), ("heads__aux1__weight", (0.0, 0.3)), ("main__weight", (1.0, 2.0)),
        ("optimizer__learning_rate", (0.1, 0.2)), ("optimizer__momentum", (0.5, 0.9)),
        ("optimizer__weight_decay", (1e-4, 1e-3)), ("data__label_noise", (0.1, 0.2)),
        ("heads__aux1__at", ("layer_1", "layer_2")), ("optimizer__schedule__floor", (0.0, 0.01)),
        ("heads__aux1__weight", ({"name": "linear_decay", "start": 0.3}, {"name": "linear_decay", "start": 0.1})),
        ("weighting", ({"name": "linear_decay", "floor": 0.1}, {"name": "linear_decay", "floor": 0.2})),
    ],
)  # fmt: skip
def test_members_that_differ_in_a_number_share_a_program(data_dir: str, key: str, values: tuple[Any, ...]) -> None:
    assert groups(data_dir, *({key: value} for value in values)) == [(0, 1)]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model__width", (16, 32)), ("data__batch_size", (16, 32)), ("optimizer__name", ("sgd", "adam")),
        ("weighting", ({"name": "constant"}, DYNAMIC)), ("optimizer__weight_decay", (0.0, 1e-4)),
        ("data__label_noise", (0.0, 0.1)), ("optimizer__clip_norm", (0.0, 1.0)), ("train__total_steps", (6, 8)),
        ("heads__aux1__weight", (0.3, {"name": "linear_decay", "start": 0.3})),
    ],
)  # fmt: skip
def test_members_that_differ_in_the_program_do_not(data_dir: str, key: str, values: tuple[Any, ...]) -> None:
    assert groups(data_dir, *({key: value} for value in values)) == [(0,), (1,)]


def test_a_method_sees_as_many_losses_as_there_are_weights_and_each_place_apart(data_dir: str) -> None:
    weights = [{"weighting": DYNAMIC, "heads__aux1__weight": weight} for weight in (0.0, 0.3, 0.1)]
    assert groups(data_dir, *weights) == [(0,), (1, 2)]
    places = [{"weighting": DYNAMIC, "heads__aux1__at": at} for at in ("layer_1", "layer_2")]
    assert groups(data_dir, *places) == [(0,), (1,)]


def test_places_share_a_program_only_where_heads_are_cheap(data_dir: str) -> None:
    wide = configs.head(at="layer_1", kind="mlp", features=(512,))
    dear = [config(data_dir, heads={"aux1": {**wide, "at": at}}) for at in ("layer_1", "layer_2")]
    assert [group.members for group in plan(dear)] == [(0,), (1,)]
    (group,) = plan([config(data_dir, heads__aux1__at=at) for at in ("layer_1", "layer_2", "layer_1")])
    assert {name: head.at for name, head in group.config.heads.items()} == {"aux1@0": "layer_1", "aux1@1": "layer_2"}
    assert group.own == ({"aux1@0": "aux1"}, {"aux1@1": "aux1"}, {"aux1@0": "aux1"})


def test_a_heads_weight_is_zero_where_the_member_does_not_have_it(data_dir: str) -> None:
    members = [
        config(data_dir, heads__aux1__at=at, heads__aux1__weight=w) for at, w in (("layer_1", 0.2), ("layer_2", 0.4))
    ]
    (group,) = plan(members)
    found = [numbers_of(group, member, own) for member, own in zip(members, group.own, strict=True)]
    weights = [[float(numbers[f"heads.aux1@{i}.weight"]) for i in (0, 1)] for numbers in found]
    assert weights == [[pytest.approx(0.2), 0.0], [0.0, pytest.approx(0.4)]]


def test_heads_that_no_member_trains_are_not_in_the_program(data_dir: str) -> None:
    (group,) = plan([config(data_dir, heads__aux1__weight=0.0, seed=seed) for seed in (0, 1)])
    assert not any(key.startswith("heads.") for key in group.keys)


def test_every_pattern_of_a_number_is_a_key_of_configs(data_dir: str) -> None:
    head = configs.head(at="layer_1", kind="inception_v1", dropout_rate=0.5, weight={"name": "cosine", "start": 1.0})
    full = config(
        data_dir, model={"name": "vgg", "depth": 11, "dropout_rate": 0.5},
        heads={"a": {**head, "at": "conv1_1"}, "b": configs.head(at="conv1_1", kind="linear")},
        weighting={"name": "linear_decay", "start": 0.5}, data__label_noise=0.1, optimizer__weight_decay=0.1,
        optimizer__heads_learning_rate_factor=2.0,
    )  # fmt: skip
    keys = number_keys(full)
    expected = {
        "heads.a.weight.start", "heads.a.dropout_rate", "heads.b.weight", "main.weight", "weighting.start",
        "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.momentum",
        "optimizer.heads_learning_rate_factor", "optimizer.schedule.floor", "optimizer.schedule.gamma",
        "data.label_noise", "model.dropout_rate",
    }  # fmt: skip
    assert set(keys) == expected and set(keys) <= set(flatten(full))
    assert set(OFF) <= set(NUMBERS)
