"""What a command line stands for: sizes of slices, refusals, and the commands word by word."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from experiments.launch import commands, options, slices, states
from experiments.launch.options import Launch
from experiments.launch.shell import LaunchError
from experiments.launch.workers import Status, read_status
from tests.launch.launcher import ROOT

TPU = "gcloud compute tpus"
PLACE = "--zone=us-west4-a --quiet"
TRAIN = ["python", "experiments/train.py", "--config=configs/demo.py"]
SCRIPT = "auxjax_launch/demo/worker_{}/source/experiments/launch/worker.sh"


def parsed(*arguments: str, command: tuple[str, ...] = ()) -> Launch:
    launch = options.parse([*arguments, *(["--", *command] if command else [])], "")
    launch.job = "now"
    return launch


def slice_of(*more: str, verb: str = "status", command: tuple[str, ...] = ()) -> Launch:
    return parsed(verb, "--name=demo", "--type=v5litepod-16", "--zone=us-west4-a", *more, command=command)


# Hosts, chips per host, devices in all, from Google Cloud's tables of v2 to v6e.
@pytest.mark.parametrize(
    ("name", "hosts", "per_host", "devices"),
    [
        ("v2-8", 1, 4, 8), ("v3-8", 1, 4, 8), ("v3-32", 4, 4, 32), ("v4-8", 1, 4, 4), ("v4-64", 8, 4, 32),
        ("v5litepod-1", 1, 1, 1), ("v5litepod-4", 1, 4, 4), ("v5litepod-8", 1, 8, 8), ("v5litepod-16", 4, 4, 16),
        ("v5litepod-256", 64, 4, 256), ("v5p-8", 1, 4, 4), ("v5p-128", 16, 4, 64), ("v6e-8", 1, 8, 8),
        ("v6e-16", 4, 4, 16),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(name: str, hosts: int, per_host: int, devices: int) -> None:
    size = slices.sizes(name)
    assert (size.hosts, size.chips_per_host, size.chips, size.devices) == (hosts, per_host, hosts * per_host, devices)


@pytest.mark.parametrize("name", ["v5e-16", "v9-8", "v4", "v4-0", "v4-7", "v5litepod-18", "v3-8x"])
def test_a_type_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(LaunchError, match=name):
        slices.sizes(name)


def test_a_batch_size_that_does_not_divide_names_one_that_does() -> None:
    assert slices.batch_line(1024, 4, 16) == "batch size 1024: 256 per host, 64 per device"
    with pytest.raises(LaunchError, match="1000 does not divide over 16 devices: take 992"):
        slices.batch_line(1000, 4, 16)


@pytest.mark.parametrize(
    ("arguments", "command", "message"),
    [
        ("status", "", "give one of --type"),
        ("status --type=v4-8 --processes=2 --zone=z", "", "give one of --type"),
        ("create --type=v4-8", "", "--zone is missing"),
        ("up --type=v4-8 --zone=z", "", "up needs a command"),
        ("stop --processes=1", "true", "stop takes no command"),
        ("logs --hosts=a,b --worker=2", "", "workers 0 to 1"),
        ("run --name=A_b --processes=1", "true", "--name=A_b"),
        ("plan --type=v5litepod-16", "t --workdir=/runs/a", "not shared by the 4 workers"),
        ("plan --type=v5litepod-16 --shared_workdir", "t --workdir runs/a", "not shared"),
        ("run --processes=2", "t --workdir=runs/a", "give --workdir=an absolute path"),
        ("run --hosts=a,b", "t --workdir=/runs/a", "--shared_workdir"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments: str, command: str, message: str) -> None:
    with pytest.raises(LaunchError) as caught:
        parsed(*arguments.split(), command=tuple(command.split()))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "workdir"),
    [
        ("plan --type=v5litepod-16", "gs://bucket/a"),
        ("plan --type=v5litepod-16 --shared_workdir", "/nfs/a"),
        ("plan --type=v4-8", "runs/a"),
        ("run --processes=2", "/runs/a"),
        ("run --hosts=a", "runs/a"),
    ],
)
def test_a_workdir_that_all_workers_reach_is_taken(arguments: str, workdir: str) -> None:
    parsed(*arguments.split(), command=("train", f"--workdir={workdir}"))


def test_the_commands_of_a_slice() -> None:
    launch = slice_of("--spot", verb="run", command=(*TRAIN, "--config.name=it's"))
    flags = "--strict-host-key-checking=no --ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=15"
    ssh = [*f"{TPU} tpu-vm ssh demo --worker=3".split(), "", *f"{flags} {PLACE}".split()]

    def remote(line: str) -> list[str]:
        return [word or f"--command={line}" for word in ssh]

    script = "bash " + SCRIPT.format(3)
    assert commands.create(launch) == (
        f"{TPU} queued-resources create demo --node-id=demo --accelerator-type=v5litepod-16 "
        f"--runtime-version=v2-alpha-tpuv5-lite --spot {PLACE}"
    ).split()
    assert commands.describe_request(launch) == f"{TPU} queued-resources describe demo --format=json {PLACE}".split()
    assert commands.describe_node(launch) == f"{TPU} tpu-vm describe demo --format=json {PLACE}".split()
    assert commands.delete(launch) == f"{TPU} queued-resources delete demo --force {PLACE}".split()
    assert commands.copy(launch, 3, "/a.tar.gz") == (
        f"{TPU} tpu-vm scp /a.tar.gz demo:auxjax_demo_worker_3.tar.gz --worker=3 --strict-host-key-checking=no {PLACE}"
    ).split()
    assert commands.setup(launch, 3) == remote(f"{script} setup tpu")
    assert commands.check(launch, 3) == remote(f"{script} check 4 4")
    assert commands.environment(launch, 3, 4, 8476) == {"AUXJAX_SUPERVISED": "1"}
    quoted = "'--config.name=it'\"'\"'s'"
    assert commands.start(launch, 3, {}) == remote(f"{script} start now -- {' '.join(TRAIN)} {quoted}")
    assert commands.on_worker(launch, 3, "log", "follow") == remote(f"{script} log follow")
    assert commands.stop(launch, 3) == remote(
        f"{script} stop 30 /tmp/libtpu_lockfile '/dev/accel*' '/dev/vfio/[0-9]*'"
    )


def test_flags_of_a_slice_reach_gcloud() -> None:
    launch = slice_of("--project=mine", "--runtime=v2-other")
    flags = ["--runtime-version=v2-other", "--zone=us-west4-a", "--project=mine", "--quiet"]
    assert commands.create(launch)[-4:] == flags
    assert options.where(launch) == ["--name=demo", "--type=v5litepod-16", "--zone=us-west4-a", "--project=mine"]


def test_the_commands_of_ssh_hosts() -> None:
    launch = parsed("run", "--name=demo", "--hosts=me@a,b", "--ssh_config=c", command=("train",))
    ssh = "ssh -F c -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=15"
    variables = commands.environment(launch, 1, 2, 8476)
    numbers = {"JAX_COORDINATOR_ADDRESS": "a:8476", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert variables == numbers | {"AUXJAX_SUPERVISED": "1"}
    pairs = " ".join(f"{name}={value}" for name, value in variables.items())
    started = f"bash {SCRIPT.format(1)} start now {pairs} -- train"
    assert commands.start(launch, 1, variables) == [*ssh.split(), "b", started]
    assert commands.stop(launch, 0) == [*ssh.split(), "me@a", f"bash {SCRIPT.format(0)} stop 30"], "others' chips stay"
    copied = f"{ssh.replace('ssh', 'scp -q')} /a.tar.gz me@a:auxjax_demo_worker_0.tar.gz"
    assert commands.copy(launch, 0, "/a.tar.gz") == copied.split()
    alone = parsed("run", "--hosts=a", command=("train",))
    assert commands.environment(alone, 0, 1, 8476) == {"AUXJAX_SUPERVISED": "1"}


def test_every_state_of_a_request_has_a_course() -> None:
    waiting = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "DELETING", "SUSPENDING", "NEW_ONE")
    assert {states.action(state) for state in waiting} == {"wait"}
    assert [states.action(state) for state in (None, "ACTIVE", "FAILED", "SUSPENDED")] == [
        "create", "ready", "delete", "delete",
    ]  # fmt: skip
    for request, node in itertools.product(("ACTIVE", "SUSPENDED", None), ("READY", "PREEMPTED", None)):
        assert states.is_preempted(request, node) == ((request, node) != ("ACTIVE", "READY"))
    assert [states.pause(attempt, 10) for attempt in (0, 1, 3, 60)] == [10, 20, 80, 640]


@pytest.mark.parametrize(
    ("code", "out", "error", "status"),
    [
        (0, "job 7 running\n", "", Status("running", "7")),
        (0, "Warning: key added\njob 7 exited 3\n", "", Status("exited", "7", 3)),
        (0, "job 7 lost\n", "", Status("lost", "7")),
        (0, "job - none\n", "", Status("none")),
        (127, "", "bash: a/worker.sh: No such file or directory", Status("unsynced")),
        (255, "", "ssh: no route to host\n\n", Status("unreachable", detail="ssh: no route to host")),
        (1, "", "", Status("unreachable", detail="no output")),
    ],
)
def test_a_workers_line_is_read(code: int, out: str, error: str, status: Status) -> None:
    assert read_status(code, out, error) == status
    assert status.failed == (status.state not in ("running", "unreachable"))


def test_plan_says_what_is_paid_for_and_needs_no_package() -> None:
    command = [sys.executable, "-IS", "experiments/launch/tpu_vm.py", "plan", "--type=v5litepod-16", "--spot"]
    command += ["--", *TRAIN, "--config.data.batch_size=512"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines() == [
        "v5litepod-16: 4 hosts of 4 chips, 16 chips in all",
        "JAX devices: 4 per host, 16 in all",
        "runtime version: v2-alpha-tpuv5-lite; spot, may be preempted",
        "batch size 512: 128 per host, 32 per device",
        "the 4 workers need one workdir that all reach, as --workdir=gs://BUCKET/RUN",
    ]
