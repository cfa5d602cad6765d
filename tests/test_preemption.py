"""SIGTERM: training saves after its step and stops, and the same call goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import pytest

import auxjax
from auxjax import checkpoint, metrics
from auxjax.diagnostics.recording import Diagnostics
from auxjax.population import train_members
from auxjax.preemption import Preempted, watched
from auxjax.record import Recorder
from auxjax.saving import Manager
from tests.digits_runs import config, timeless
from tests.equal import equal
from tests.population import made


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def records(folder: Path) -> list[dict[str, Any]]:
    return timeless(metrics.read(folder / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> auxjax.Result:
    return auxjax.train(config(data_dir, **{"train.checkpoint_steps": 6}), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_run_saves_after_its_step_and_goes_on_with_the_same_bits(
    at: int, whole: auxjax.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Recorder.step

    def step(self: Recorder, number: int, values: Any) -> None:
        record(self, number, values)
        if number == at:
            terminate()

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched, pytest.raises(Preempted) as caught:
        patched.setattr(Recorder, "step", step)
        auxjax.train(whole.config, tmp_path)
    assert caught.value.code == 0 and caught.value.step == at
    assert checkpoint.find_step(tmp_path) == at and not (tmp_path / "DONE").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    result = auxjax.train(whole.config, tmp_path)
    equal(result.state, whole.state)
    assert whole.workdir is not None
    assert records(tmp_path) == records(whole.workdir)


def test_a_signal_after_the_last_step_is_not_lost(
    whole: auxjax.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Diagnostics.finish

    def last(self: Diagnostics) -> None:
        finish(self)
        terminate()

    with monkeypatch.context() as patched, pytest.raises(Preempted):
        patched.setattr(Diagnostics, "finish", last)
        auxjax.train(whole.config, tmp_path)
    assert auxjax.train(whole.config, tmp_path).evaluation == whole.evaluation


def test_more_signals_change_nothing_and_the_handler_before_is_there_again() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(Preempted) as caught, watched() as requested:
            assert not requested(1)
            terminate()
            assert requested(2)
            terminate()
            assert requested(3)
        assert caught.value.step == 3 and not heard
        terminate()
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_while_the_step_is_being_saved_waits_for_it(
    whole: auxjax.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedulers send several: one at step 2, and one when the manager closes, which waits for the save."""
    record, close = Recorder.step, Manager.close

    def step(self: Recorder, number: int, values: Any) -> None:
        record(self, number, values)
        if number == 2:
            terminate()

    def closing(self: Manager) -> None:
        terminate()
        close(self)

    with monkeypatch.context() as patched, pytest.raises(Preempted):
        patched.setattr(Recorder, "step", step)
        patched.setattr(Manager, "close", closing)
        auxjax.train(whole.config, tmp_path)
    assert checkpoint.find_step(tmp_path) == 2


def test_several_processes_are_asked_about_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX answers yes to one number alone: the one after the largest asked about when the signal comes."""
    from jax.experimental import multihost_utils

    asked: list[int] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def reached(number: int) -> bool:
        asked.append(number)
        return number == 1

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    with watched() as requested:
        assert requested(4) and not requested(5) and not requested(7)
    assert asked == [1, 2, 3, 4, 5, 6, 7]


def test_in_a_thread_nobody_listens() -> None:
    said: list[bool] = []

    def ask() -> None:
        with watched() as requested:
            said.append(requested(1))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert said == [False] and signal.getsignal(signal.SIGTERM) is before


def test_a_run_in_memory_leaves_the_signal_alone(whole: auxjax.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[Any] = []
    record = Recorder.step

    def step(self: Recorder, number: int, values: Any) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        record(self, number, values)

    monkeypatch.setattr(Recorder, "step", step)
    before = signal.getsignal(signal.SIGTERM)
    auxjax.train(whole.config)
    assert handlers == [before] * 6


def test_members_in_memory_leave_the_signal_alone(data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[Any] = []
    from auxjax.population.members import Member

    trained = Member.trained

    def look(self: Member, *args: Any) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        trained(self, *args)

    monkeypatch.setattr(Member, "trained", look)
    before = signal.getsignal(signal.SIGTERM)
    train_members([made.config(data_dir)])
    assert handlers and set(handlers) == {before}


def test_members_that_train_together_stop_together(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auxjax.population.members import Member

    configs = [made.config(data_dir, seed=seed) for seed in (0, 1)]
    expected = train_members(configs, [tmp_path / f"whole_{seed}" for seed in (0, 1)], execution="vmapped")
    folders = [tmp_path / f"run_{seed}" for seed in (0, 1)]
    trained = Member.trained

    def stop(self: Member, *args: Any) -> None:
        trained(self, *args)
        if self.step == 2 and self.config.seed == 0:
            terminate()

    with monkeypatch.context() as patched, pytest.raises(Preempted) as caught:
        patched.setattr(Member, "trained", stop)
        train_members(configs, folders, execution="vmapped")
    assert caught.value.step == 2 and [checkpoint.find_step(folder) for folder in folders] == [2, 2]
    again = train_members(configs, folders, execution="vmapped")
    for outcome, other in zip(again, expected, strict=True):
        assert outcome.evaluation == other.evaluation
    assert [records(folder) for folder in folders] == [records(tmp_path / f"whole_{seed}") for seed in (0, 1)]
