"""Local processes, for real: started together, watched, stopped, their logs and exit codes kept."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.launcher import PROGRAM, ROOT, begin, environment, is_alive, launch, wait_until

FLAGS = ("--name=demo", "--processes=2", "--poll_seconds=0.1")
WORKER = "auxjax_launch/demo/worker_{}/jobs/latest"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose two workers have the source."""
    home = tmp_path_factory.mktemp("home")
    (home / "program.py").write_text(PROGRAM)
    (home / ".gitconfig").write_text(f"[safe]\n\tdirectory = {ROOT}\n")
    printed = launch(environment(home), "sync", *FLAGS)
    assert "packed" in printed
    return home


def command(home: Path, plan: str, *more: str) -> list[str]:
    return ["--", "python", str(home / "program.py"), plan, *more]


def job(home: Path, worker: int) -> Path:
    return home / WORKER.format(worker)


def pids(home: Path) -> list[int]:
    return [int((job(home, worker) / "pid").read_text()) for worker in range(2)]


def begin_asleep(home: Path, plan: str) -> subprocess.Popen[str]:
    """Starts a run that waits for its workers, and returns when both sleep."""
    for worker in range(2):
        job(home, worker).unlink(missing_ok=True)
    process = begin(environment(home), "run", *FLAGS, *command(home, plan))
    logs = [job(home, worker) / "log" for worker in range(2)]
    wait_until(lambda: all(log.exists() and "asleep" in log.read_text() for log in logs))
    return process


def test_all_end_well(home: Path) -> None:
    printed = launch(environment(home), "run", *FLAGS, *command(home, "end,end", "a b", "it's"))
    assert "all workers ended with exit code 0" in printed
    for worker in range(2):
        assert (job(home, worker) / "exit_code").read_text() == "0\n"
        log = launch(environment(home), "logs", *FLAGS, f"--worker={worker}")
        assert f'worker {worker} of 2 [\'a b\', "it\'s"]' in log
    assert launch(environment(home), "status", *FLAGS).count("exited 0 (job ") == 2


def test_the_source_is_the_checkout_and_the_job_keeps_commit_and_difference(home: Path) -> None:
    root = job(home, 1).parents[1]
    for file in ("auxjax/step.py", "experiments/launch/worker.sh", "tests/launch/test_local.py"):
        assert (root / "source" / file).read_bytes() == (ROOT / file).read_bytes()
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    assert (root / "sync/commit").read_bytes() == subprocess.check_output([*git, "rev-parse", "HEAD"])
    assert {"commit", "diff.patch", "status"} <= {path.name for path in job(home, 1).iterdir()}
    assert not (root / "source" / ".git").exists()


def test_one_that_fails_stops_the_other_within_seconds(home: Path) -> None:
    begun = time.monotonic()
    printed = launch(environment(home), "run", *FLAGS, *command(home, "sleep,end:7"), code=7)
    assert time.monotonic() - begun < 10
    assert "stopping worker 0" in printed and "worker 1 exited 7" in printed
    assert "[1] worker 1 of 2 []" in printed, "the end of the failed worker's log is shown"
    assert (job(home, 0) / "exit_code").read_text() == "143\n"
    assert not any(map(is_alive, pids(home)))


def test_a_killed_supervisor_counts_as_failed(home: Path) -> None:
    process = begin_asleep(home, "sleep,sleep")
    os.killpg(pids(home)[1], signal.SIGKILL)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 1 and "worker 1 lost" in printed, printed
    assert not any(map(is_alive, pids(home)))


def test_it_outlives_the_launcher_and_can_be_waited_for_followed_and_stopped(home: Path) -> None:
    process = begin_asleep(home, "sleep,deaf")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "what was started goes on" in printed, printed
    assert launch(environment(home), "status", *FLAGS).count("running (job ") == 2
    assert "stop it first" in launch(environment(home), "run", *FLAGS, *command(home, "end,end"), code=2)
    assert "a job runs on worker 0, 1" in launch(environment(home), "sync", *FLAGS, code=2)
    assert all(map(is_alive, pids(home))), "what was refused has stopped nothing"
    following = begin(environment(home), "logs", *FLAGS, "--worker=1", "--follow")
    waiting = begin(environment(home), "run", *FLAGS)
    stopped = launch(environment(home), "stop", *FLAGS, "--grace_seconds=1")
    assert "[0] stopped" in stopped and "exit code 143" in stopped
    assert "[1] stopped" in stopped and "exit code 137" in stopped, "one that ignores SIGTERM is killed"
    assert "asleep" in following.communicate(timeout=10)[0]
    assert "failed: worker 0 exited 143" in waiting.communicate(timeout=20)[0]
    assert waiting.returncode in (137, 143)
    assert not any(map(is_alive, pids(home)))


def test_syncing_again_takes_away_what_is_gone_and_keeps_what_the_job_wrote(home: Path) -> None:
    source = job(home, 0).parents[1] / "source"
    listed = job(home, 0).parents[1] / "sync" / "files"
    (source / "gone.py").write_text("")
    listed.write_bytes(listed.read_bytes() + b"gone.py\0")
    (source / "runs").mkdir()
    (source / "runs" / "DONE").write_text("")
    launch(environment(home), "sync", *FLAGS)
    assert not (source / "gone.py").exists()
    assert (source / "runs" / "DONE").exists() and (source / "auxjax" / "step.py").exists()
    assert not list(home.glob("auxjax_demo_*")), "no archive is left"


def test_a_process_that_holds_a_chip_is_killed_and_nothing_else(home: Path, tmp_path: Path) -> None:
    """With files in place of /dev/accel0 and the lock file."""
    chip, other, lock = tmp_path / "accel0", tmp_path / "other", tmp_path / "lock"
    lock.touch()
    with holding(chip) as holder, holding(other) as bystander:
        script = job(home, 0).parents[1] / "source/experiments/launch/worker.sh"
        subprocess.run(["bash", script, "stop", "1", lock, tmp_path / "accel*"], check=True, capture_output=True)
        assert holder.wait(timeout=5) == -signal.SIGKILL and bystander.poll() is None and not lock.exists()


@contextlib.contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a file open."""
    program = f"f = open({str(path)!r}, 'w'); print('held', flush=True); input()"
    command = [sys.executable, "-I", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_where_one_does_not_start_none_goes_on(home: Path) -> None:
    source = job(home, 1).parents[1] / "source"
    source.rename(source.with_name("away"))
    try:
        printed = launch(environment(home), "run", *FLAGS, *command(home, "sleep,sleep"), code=2)
    finally:
        source.with_name("away").rename(source)
    assert "starting the job failed on worker 1" in printed and "[0] stopped job" in printed
    assert (job(home, 0) / "exit_code").read_text() == "143\n"


def test_before_sync_every_verb_says_what_is_missing(tmp_path: Path) -> None:
    assert launch(environment(tmp_path), "status", *FLAGS, code=1).count("unsynced") >= 2
    assert "`sync`" in launch(environment(tmp_path), "run", *FLAGS, "--", "true", code=2)


@pytest.mark.slow_study
def test_jax_finds_the_other_process(home: Path) -> None:
    """A sum over two processes, which found each other by the launcher's variables."""
    (home / "psum.py").write_text(
        "import os, jax\n"
        "jax.distributed.initialize(os.environ['JAX_COORDINATOR_ADDRESS'], int(os.environ['JAX_NUM_PROCESSES']),\n"
        "                           int(os.environ['JAX_PROCESS_ID']))\n"
        "from jax.experimental import multihost_utils as m\n"
        "print('sum', int(m.process_allgather(jax.numpy.array([jax.process_index() + 1])).sum()))\n"
    )
    variables = environment(home, JAX_PLATFORMS="cpu")
    launch(variables, "run", *FLAGS, "--", "python", str(home / "psum.py"), timeout=120)
    for worker in range(2):
        assert "sum 3" in (job(home, worker) / "log").read_text()
