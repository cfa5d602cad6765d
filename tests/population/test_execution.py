"""Which way a group is executed in: what a trial says, where a trial is worth its time."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from auxjax.errors import AuxjaxError
from auxjax.population import plan
from auxjax.population.execution import Execution, choose, way_of
from auxjax.population.program import Compiled, compiled
from tests.population.made import config


@pytest.fixture(scope="module")
def shared(data_dir: str) -> Compiled:
    return compiled(plan([config(data_dir, seed=seed) for seed in range(2)])[0])


@pytest.mark.parametrize(
    ("alone", "together", "way"),
    [
        (100.0, 100.0, "vmapped"),  # a quarter of the time of four members
        (100.0, 350.0, "scanned"),  # faster, but within what a clock gets wrong
        (0.001, 0.0001, "scanned"),  # over before a trial would be
    ],
)
def test_the_faster_way_is_chosen_where_it_is_clearly_faster(
    alone: float, together: float, way: str, shared: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def trial(execution: Execution, members: int, steps: int, times: int) -> float:
        tried.append(execution.name)
        return alone if execution.name == "scanned" else together

    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert choose(shared, 8, trial).name == way
    assert tried == (["scanned"] if alone < 1 else ["scanned", "vmapped"])


@pytest.mark.multidevice
def test_several_devices_are_used_without_a_trial(shared: Compiled) -> None:
    def trial(*_: Any) -> float:
        raise AssertionError

    assert choose(shared, 8, trial).name == "devices"
    assert choose(shared, 1, trial).name == "scanned"


def test_a_batch_of_members_is_not_wider_than_64(shared: Compiled) -> None:
    assert [way_of("vmapped", shared, members).width for members in (3, 64, 150)] == [3, 64, 64]
    with pytest.raises(AuxjaxError, match="unknown execution 'mapped'"):
        way_of("mapped", shared, 3)
