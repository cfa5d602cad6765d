"""Processes meet or say in one line why they do not; how they are told of one another."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from auxjax import processes, rendezvous
from auxjax.errors import AuxjaxError
from tests.processes.launching import free_port, launch

JAX = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def meet(numbers: list[tuple[int, int]], seconds: float, port: int) -> list[str]:
    """Lets processes meet that say (number, count); returns their errors, empty where there was none."""

    def one(told: tuple[int, int]) -> str:
        try:
            found = rendezvous.meet(f"127.0.0.1:{port}", told[1], told[0], seconds)
        except AuxjaxError as error:
            return str(error)
        assert sorted(found) == (list(range(1, told[1])) if told[0] == 0 else [0])
        for connection in found.values():
            connection.close()
        return ""

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_all_meet_whoever_knocks_besides() -> None:
    port = free_port()

    def knock() -> None:
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"auxjax 1 4", b"\xff\n", b"auxjax 2 4\n", b""):
            for _ in range(100):
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as door:
                        door.sendall(text)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)

    thread = threading.Thread(target=knock)
    thread.start()
    assert meet([(0, 4)], 0.6, port) == [
        "1 of 4 processes came within 0.6 s, missing: 1, 2, 3; start the same command on every host"
    ]
    thread.join()
    assert meet([(3, 4), (1, 4), (0, 4), (2, 4)], 20, free_port()) == ["", "", "", ""]


def test_those_that_came_are_all_told_who_did_not() -> None:
    message = "3 of 5 processes came within 0.7 s, missing: 1, 3; start the same command on every host"
    assert meet([(0, 5), (2, 5), (4, 5)], 0.7, free_port()) == [message] * 3
    (alone,) = meet([(1, 2)], 0.3, free_port())
    assert alone.startswith("process 0 of 2 did not answer at 127.0.0.1:")
    assert "\n" not in alone


def test_numbers_that_do_not_fit_are_said_at_once() -> None:
    begun = time.monotonic()
    twice = meet([(0, 3), (1, 3), (1, 3)], 30, free_port())
    assert set(twice) == {"two processes are number 1 of 3: give each its own JAX_PROCESS_ID"}
    differ = meet([(0, 2), (1, 3)], 30, free_port())
    assert set(differ) == {"process 1 was told of 3 processes and process 0 of 2: start all alike"}
    assert time.monotonic() - begun < 10


def test_a_port_that_is_taken_is_an_error() -> None:
    with (
        socket.create_server(("", 0)) as taken,
        pytest.raises(AuxjaxError, match="is in use on this host: stop the other run"),
    ):
        rendezvous.meet(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0, 0.3)


def test_the_variables_say_who_this_is() -> None:
    assert processes.told(JAX) == processes.Place("10.0.0.1:8476", 4, 3)
    assert processes.told(JAX | {"JAX_LOCAL_DEVICE_IDS": "0,2"}) == processes.Place("10.0.0.1:8476", 4, 3, [0, 2])
    assert processes.told({}) is None
    assert processes.told({"JAX_NUM_PROCESSES": "1"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES is not set"),
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not set"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 is no number from 0 below JAX_NUM_PROCESSES=4"),
        ({"JAX_NUM_PROCESSES": "two"}, "below JAX_NUM_PROCESSES=two"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS=host is not HOST:PORT"),
    ],
)
def test_variables_that_do_not_fit_are_one_line(change: dict[str, str], message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        processes.told(JAX | change)
    assert "\n" not in str(error.value)


SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[003-004]", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}  # fmt: skip


def test_slurm_and_open_mpi_say_who_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*SLURM, *OPEN_MPI}:
        monkeypatch.delenv(name, raising=False)
    assert processes.detected({}) is None
    with monkeypatch.context() as patch:
        for name, value in SLURM.items():
            patch.setenv(name, value)
        assert processes.detected(SLURM) == processes.Place(f"node003:{77 + 65535 - 2**12 + 1}", 2, 1, [0])
        assert processes.detected(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    with monkeypatch.context() as patch:
        for name, value in OPEN_MPI.items():
            patch.setenv(name, value)
        found = processes.detected(OPEN_MPI)
        assert found is not None
        assert (found.address.partition(":")[0], found.processes, found.number) == ("10.96.0.1", 2, 1)
    with pytest.raises(AuxjaxError, match="JAX cannot tell which: set JAX_COORDINATOR_ADDRESS"):
        processes.detected(OPEN_MPI)


def test_a_tpu_is_one_only_where_jax_may_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name)
    assert processes.on_tpu({})
    assert processes.on_tpu({"JAX_PLATFORMS": "tpu,cpu"})
    assert not processes.on_tpu({"JAX_PLATFORMS": "cpu"})
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert not processes.on_tpu({})


def test_one_process_agrees_with_itself() -> None:
    assert processes.agree({"a": 1}) == {"a": 1}
    assert processes.gather(3) == [3]
    assert processes.together(lambda: 5) == 5
    assert (processes.count(), processes.index(), processes.is_writer()) == (1, 0, True)
    processes.barrier("here")
    processes.fail("nobody hears this", 1)


def test_an_ablation_is_not_run_twice_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JAX.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AuxjaxError, match="an ablation runs in one process, and this is one of 4"):
        processes.alone("an ablation")


def test_an_entry_point_whose_peers_do_not_come_says_so(tmp_path: Path) -> None:
    arguments = ["experiments/train.py", "--config=configs/demo.py:smoke", f"--workdir={tmp_path}/run"]
    (ended,) = launch(2, 1, arguments, tmp_path, only=1, AUXJAX_START_TIMEOUT="0.5", PYTHONWARNINGS="ignore")
    assert ended.code == 2
    message = "1 of 2 processes came within 0.5 s, missing: 1; start the same command on every host"
    assert ended.text == f"error: {message}\n"
