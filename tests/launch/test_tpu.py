"""TPU slices with a gcloud that plays their states: queues, preemptions, failures, and what is deleted."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.launch.launcher import PROGRAM, ROOT, environment, launch

PLACE = ("--name=demo", "--type=v4-16", "--zone=us-central2-b")
FLAGS = (*PLACE, "--poll_seconds=0.01")
# As uv is called by `setup`: an environment whose Python counts four devices without JAX.
UV = """#!/bin/bash
echo "uv $*" >>"$FAKE_GCLOUD/uv"
if [ "$1" = venv ]; then
  mkdir -p "${@: -1}/bin"
  printf '#!/bin/bash\\nif [ "$1" = - ]; then cat >/dev/null; echo "4 local devices"; else exec %s "$@"; fi\\n' \
    PYTHON >"${@: -1}/bin/python"
  chmod +x "${@: -1}/bin/python"
fi
"""


@pytest.fixture
def cloud(tmp_path: Path) -> dict[str, str]:
    """An environment whose gcloud and uv are fakes, with a slice of two hosts."""
    (tmp_path / "bin").mkdir()
    fakes = {"gcloud": f"#!{sys.executable} -IS\n{(Path(__file__).parent / 'fake_gcloud.py').read_text()}"}
    fakes["uv"] = UV.replace("PYTHON", sys.executable)
    for name, text in fakes.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / ".gitconfig").write_text(f"[safe]\n\tdirectory = {ROOT}\n")
    return environment(tmp_path, tmp_path / "bin", FAKE_GCLOUD=str(tmp_path), FAKE_HOSTS="2")


def plays(cloud: dict[str, str], *requests: list[str]) -> Path:
    folder = Path(cloud["FAKE_GCLOUD"])
    (folder / "plays.json").write_text(json.dumps(requests))
    return folder


def asked(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]


def count(folder: Path, kind: str, verb: str) -> int:
    return sum(argv[2:4] == [kind, verb] for argv in asked(folder))


def test_it_waits_in_the_queue_and_counts_the_hosts(cloud: dict[str, str]) -> None:
    folder = plays(cloud, ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    printed = launch(cloud, "create", *FLAGS)
    assert [line for line in printed.splitlines() if line.startswith("request demo: ")] == [
        "request demo: not made yet", "request demo: WAITING_FOR_RESOURCES", "request demo: PROVISIONING",
        "request demo: ACTIVE",
    ]  # fmt: skip
    assert "demo is there: 2 hosts" in printed
    launch(cloud, "create", *FLAGS)
    assert count(folder, "queued-resources", "create") == 1, "what is there is not requested again"
    cloud["FAKE_HOSTS"] = "1"
    assert "has 1 of the 2 hosts of v4-16" in launch(cloud, "create", *FLAGS, code=2)


@pytest.mark.parametrize("dead", ["FAILED", "SUSPENDED"])
def test_a_dead_request_is_deleted_and_made_again(cloud: dict[str, str], dead: str) -> None:
    folder = plays(cloud, ["WAITING_FOR_RESOURCES", dead], ["PROVISIONING", "ACTIVE"])
    launch(cloud, "create", *FLAGS)
    assert count(folder, "queued-resources", "create") == 2
    assert count(folder, "queued-resources", "delete") == 1


def test_retries_end(cloud: dict[str, str]) -> None:
    folder = plays(cloud, *[["FAILED"]] * 3)
    assert "is FAILED after 2 retries" in launch(cloud, "create", *FLAGS, "--retries=2", code=2)
    assert count(folder, "queued-resources", "create") == 3


def test_up_starts_again_after_a_preemption_and_cleans_up(cloud: dict[str, str]) -> None:
    """The first slice is lost while its job runs, the second request fails, the third slice ends the job."""
    folder = plays(cloud, ["WAITING_FOR_RESOURCES", "ACTIVE", "lost"], ["FAILED"], ["ACTIVE"])
    bucket = folder / "bucket"
    bucket.mkdir()
    resumes = f"echo run >>{bucket}/runs_$JAX_PROCESS_ID; [ $(wc -l <{bucket}/runs_$JAX_PROCESS_ID) = 2 ]"
    printed = launch(cloud, "up", *FLAGS, "--spot", "--autodelete", "--", "bash", "-c", resumes)
    assert "VM: PREEMPTED" in printed and "preempted; retry 1 of 20" in printed
    assert "all workers ended with exit code 0" in printed
    for worker in range(2):
        assert (bucket / f"runs_{worker}").read_text() == "run\nrun\n"
    assert count(folder, "queued-resources", "create") == 3 and not (folder / "request.json").exists()
    installs = [line for line in (folder / "uv").read_text().splitlines() if line.startswith("uv pip")]
    assert printed.count("packed ") == 1, "a retry runs the code of the first start"
    assert len(installs) == 4 and all("[tpu]" in line and "constraints-3.13.txt" in line for line in installs)


def test_a_run_that_was_told_to_go_goes_on_though_the_slice_still_seems_to_be_there(cloud: dict[str, str]) -> None:
    folder = plays(cloud, ["ACTIVE"], ["ACTIVE"])
    resumes = f'echo $AUXJAX_SUPERVISED >>{folder}/run_$JAX_PROCESS_ID; [ $(wc -l <{folder}/run_$JAX_PROCESS_ID) = 2 ]'
    printed = launch(cloud, "up", *FLAGS, "--spot", "--autodelete", "--", "bash", "-c", f"{resumes} || exit 75")
    assert "preempted; retry 1 of 20" in printed and "all workers ended with exit code 0" in printed
    for worker in range(2):
        assert (folder / f"run_{worker}").read_text() == "1\n1\n"


def test_a_program_that_fails_is_not_tried_again(cloud: dict[str, str]) -> None:
    folder = plays(cloud, ["ACTIVE"])
    program = str(folder / "program.py")
    printed = launch(cloud, "up", *FLAGS, "--spot", "--", "python", program, "sleep,end:5", code=5)
    assert "worker 1 exited 5" in printed and "stopping worker 0" in printed
    assert count(folder, "queued-resources", "create") == 1
    assert (folder / "request.json").exists(), "it is kept without --autodelete"
    assert f"delete: python experiments/launch/tpu_vm.py delete {' '.join(PLACE)}" in printed
    assert launch(cloud, "status", *FLAGS, code=1).count("exited") == 2
    stopped = next(argv for argv in asked(folder) if any("worker.sh stop" in word for word in argv))
    assert any("/tmp/libtpu_lockfile" in word and "/dev/vfio/" in word for word in stopped)
    launch(cloud, "delete", *FLAGS)
    assert "there is no request demo" in launch(cloud, "delete", *FLAGS)


def test_what_goes_wrong_before_the_job_deletes_the_slice_too(cloud: dict[str, str]) -> None:
    folder = plays(cloud, ["ACTIVE"])
    (folder / "bin/uv").write_text("#!/bin/sh\necho no space left\nexit 1\n")
    printed = launch(cloud, "up", *FLAGS, "--autodelete", "--", "true", code=2)
    assert "[1] no space left" in printed
    assert printed.endswith("error: setup failed on worker 0 (exit code 1), 1 (exit code 1)\n")
    assert not (folder / "request.json").exists()


def test_what_is_printed_is_what_is_asked(cloud: dict[str, str]) -> None:
    """`--print` asks nothing, and prints the very commands that the verb then runs."""
    folder, cloud["FAKE_HOSTS"] = plays(cloud, ["ACTIVE"]), "1"
    flags, job = [flag.replace("v4-16", "v4-8") for flag in FLAGS], ["--", "true"]
    printed = {
        verb: launch(cloud, verb, *flags, "--print", *(job if verb == "run" else []))
        for verb in ("create", "sync", "setup", "run", "status", "stop", "delete")
    }
    assert not (folder / "asked.jsonl").exists()
    for verb, text in printed.items():
        launch(cloud, verb, *flags, *(job if verb == "run" else []))
        ran = {shlex.join(["gcloud", *argv]) for argv in asked(folder)}
        (folder / "asked.jsonl").unlink()
        shown = {line.removeprefix("$ ") for line in text.splitlines()}
        if verb == "run":  # but for the job's number
            shown, ran = ({line for line in lines if "worker.sh start" not in line} for lines in (shown, ran))
        assert ran == shown, verb


def test_gcloud_that_refuses_is_one_line(cloud: dict[str, str]) -> None:
    (Path(cloud["FAKE_GCLOUD"]) / "bin/gcloud").write_text("#!/bin/sh\necho 'ERROR: (gcloud) log in' >&2\nexit 1\n")
    printed = launch(cloud, "create", *FLAGS, code=2)
    assert printed.splitlines()[-1] == "error: (gcloud) log in"
