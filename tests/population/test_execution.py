"""Which way a group is executed in: what a trial says, where a trial is worth its time."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from auxjax import machine
from auxjax.errors import AuxjaxError
from auxjax.population import plan
from auxjax.population.execution import Execution, choose, way_of
from auxjax.population.program import Compiled, compiled
from tests.population.made import config


@pytest.fixture(scope="module")
def shared(data_dir: str) -> Compiled:
    return compiled(plan([config(data_dir, seed=seed) for seed in range(2)])[0])


@pytest.fixture
def one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processors", lambda: 1)


@pytest.mark.usefixtures("one_processor")
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


@pytest.mark.parametrize(
    ("alone", "threads", "way"),
    [
        (100.0, 200.0, "threads"),  # two blocks of four members in half the time of eight
        (100.0, 350.0, "scanned"),  # one member has all processors at work
        (0.001, 1000.0, "threads"),  # over before a trial would be
    ],
)
def test_threads_are_for_a_cpu_of_several_processors(
    alone: float, threads: float, way: str, shared: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: dict[str, int] = {}

    def trial(execution: Execution, members: int, *_: Any) -> float:
        tried[execution.name] = members
        return {"scanned": alone, "threads": threads, "vmapped": 1e6}[execution.name]

    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(machine, "processors", lambda: 4)
    chosen = choose(shared, 8, trial)
    assert chosen.name == way and chosen.width == (4 if way == "threads" else 1)
    assert tried == ({"scanned": 1} if alone < 1 else {"scanned": 1, "threads": 4, "vmapped": 4})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tried.clear()
    assert choose(shared, 8, trial).name == "scanned" and "threads" not in tried


@pytest.mark.multidevice
@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize(
    ("times", "way"),
    [
        ((100.0, 400.0, 100.0), "devices"),
        ((100.0, 50.0, 800.0), "vmapped"),  # devices that share the cores of one machine
        ((100.0, 390.0, 750.0), "scanned"),
        ((0.001, 0.0001, 0.0001), "scanned"),  # over before a trial would be
    ],
)
def test_several_devices_are_used_where_a_trial_says_so(
    times: tuple[float, float, float], way: str, shared: Compiled
) -> None:
    tried: dict[str, int] = {}

    def trial(execution: Execution, members: int, *_: Any) -> float:
        tried[execution.name] = members
        return dict(zip(("scanned", "vmapped", "devices"), times, strict=True))[execution.name]

    assert choose(shared, 8, trial).name == way
    assert tried == ({"scanned": 1} if times[0] < 1 else {"scanned": 1, "vmapped": 4, "devices": 8})


@pytest.mark.multidevice
@pytest.mark.usefixtures("one_processor")
def test_what_devices_take_is_by_the_fullest_of_them(shared: Compiled) -> None:
    """Forty members are five a device; a trial of four a device says what four of those five take."""

    def trial(execution: Execution, members: int, *_: Any) -> float:
        return {"scanned": 100.0, "vmapped": 1000.0, "devices": 0.79 * 4000 * 4 / 5}[execution.name]

    assert choose(shared, 40, trial).name == "devices"
    assert choose(shared, 41, trial).name == "scanned"


def test_a_member_alone_is_not_tried(shared: Compiled) -> None:
    def trial(*_: Any) -> float:
        raise AssertionError

    assert choose(shared, 1, trial).name == "scanned"


def test_a_batch_of_members_is_not_wider_than_64(shared: Compiled) -> None:
    assert [way_of("vmapped", shared, members).width for members in (3, 64, 150)] == [3, 64, 64]
    with pytest.raises(AuxjaxError, match="unknown execution 'mapped'"):
        way_of("mapped", shared, 3)
