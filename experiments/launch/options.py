"""The command line: a verb, where to run, and the command after `--`."""

from __future__ import annotations

import argparse
import itertools
import re
import time
from collections.abc import Sequence

from experiments.launch import slices
from experiments.launch.shell import LaunchError

VERBS = {
    "plan": "print hosts, chips and batch sizes; start nothing",
    "create": "request the slice and wait until it is there",
    "setup": "install uv, Python and the package on every worker, then count devices",
    "sync": "copy the checkout, with what is not committed, to every worker",
    "run": "start the command on all workers and wait; without a command, wait for the job that is there",
    "logs": "print a worker's log",
    "status": "print what each worker does",
    "stop": "stop the job on all workers, and free the chips",
    "delete": "delete the slice and its request",
    "up": "create, sync, setup and run; again after a preemption",
}


class Launch(argparse.Namespace):
    """A parsed command line."""

    verb: str
    name: str
    print: bool
    type: str
    zone: str
    project: str
    runtime: str
    spot: bool
    hosts: str
    ssh_config: str
    coordinator: str
    processes: int
    folder: str
    extra: str | None
    batch_size: int
    shared_workdir: bool
    worker: int
    follow: bool
    retries: int
    autodelete: bool
    grace_seconds: int
    poll_seconds: float
    command: list[str]
    job: str


def parse(arguments: Sequence[str], text: str) -> Launch:
    """Returns the command line as a record; raises LaunchError where flags do not go together."""
    arguments = list(arguments)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    launch = _parser(text).parse_args(arguments[:cut], namespace=Launch())
    launch.command = arguments[cut + 1 :]
    now = time.time()
    launch.job = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{int(now * 1000) % 1000:03d}"
    _check(launch)
    return launch


def where(launch: Launch) -> list[str]:
    """Returns the flags that name the same workers again, for the next command."""
    flags = [f"--name={launch.name}"]
    for name in ("type", "zone", "project", "hosts", "ssh_config", "processes", "folder"):
        value = getattr(launch, name)
        if value and not (name == "folder" and value == "auxjax_launch"):
            flags.append(f"--{name}={value}")
    return flags


def _parser(text: str) -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:8} {does}" for verb, does in VERBS.items())
    parser = argparse.ArgumentParser(
        usage="tpu_vm.py VERB [FLAGS] [-- COMMAND]", description=f"{text}\nVerbs:\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of the above")
    add = parser.add_argument
    add("--name", default="auxjax", help="of the slice, its request, and the folder on the workers")
    add("--print", action="store_true", help="print the commands only")
    tpu = parser.add_argument_group("a TPU slice").add_argument
    tpu("--type", default="", help="as v5litepod-16")
    tpu("--zone", default="", help="as us-west4-a")
    tpu("--project", default="", help="default: gcloud's own")
    tpu("--runtime", default="", help="default: by the type")
    tpu("--spot", action="store_true", help="cheaper, and may be preempted")
    tpu("--retries", type=int, default=20, help="new requests after a preemption or failure (20)")
    tpu("--autodelete", action="store_true", help="delete the slice when `up` ends")
    ssh = parser.add_argument_group("SSH hosts").add_argument
    ssh("--hosts", default="", help="user@host,... in the order of process ids")
    ssh("--ssh_config", default="", help="a file for ssh -F: ports, keys, aliases")
    ssh("--coordinator", default="", help="HOST:PORT of process 0 (first host, 8476)")
    parser.add_argument("--processes", type=int, default=0, help="local processes, in place of a slice or hosts")
    add("--folder", default="auxjax_launch", help="on the workers, below the home folder (auxjax_launch)")
    add("--extra", default=None, help="what `setup` installs: tpu, cuda12, cuda13 or '' (tpu on a slice)")
    add("--batch_size", "--batch-size", type=int, default=0, help="of the config, for `plan`")
    add("--shared_workdir", action="store_true", help="the workdir is on a disk that all hosts share")
    add("--worker", type=int, default=0, help="whose log (0)")
    add("--follow", action="store_true", help="`logs`: until the job ends")
    add("--grace_seconds", type=int, default=30, help="from SIGTERM to SIGKILL in `stop` (30)")
    add("--poll_seconds", type=float, default=10.0, help="between looks at the workers (10)")
    return parser


def _check(launch: Launch) -> None:
    given = [flag for flag in ("type", "hosts", "processes") if getattr(launch, flag)]
    if len(given) != 1:
        raise LaunchError("give one of --type=v5litepod-16, --hosts=a,b and --processes=2")
    if launch.processes < 0:
        raise LaunchError(f"--processes={launch.processes}: at least 1")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", launch.name):
        raise LaunchError(f"--name={launch.name}: lower-case letters, digits and hyphens, a letter first")
    if launch.type and not launch.zone and launch.verb != "plan":
        raise LaunchError("--zone is missing: give --zone=us-west4-a, or where your quota is")
    if launch.command and launch.verb not in ("run", "up", "plan"):
        raise LaunchError(f"{launch.verb} takes no command after --")
    if launch.verb == "up" and not launch.command:
        raise LaunchError("up needs a command: -- python experiments/train.py --config=... --workdir=...")
    if not 0 <= launch.worker < workers(launch):
        raise LaunchError(f"--worker={launch.worker}: there are workers 0 to {workers(launch) - 1}")
    check_workdir(launch)


def workers(launch: Launch) -> int:
    """Returns how many workers there are: hosts of the slice, SSH hosts, or local processes."""
    return slices.sizes(launch.type).hosts if launch.type else launch.processes or len(launch.hosts.split(","))


def value_of(command: Sequence[str], flag: str) -> str:
    """Returns what a command gives for `--flag=value` or `--flag value`; an empty string where it does not."""
    for argument, following in itertools.pairwise([*command, ""]):
        if argument.lstrip("-").partition("=")[0] == flag and argument.startswith("-"):
            return argument.partition("=")[2] if "=" in argument else following
    return ""


def check_workdir(launch: Launch) -> None:
    """Raises LaunchError where several workers would each write a workdir of their own, and none could resume."""
    workdir = value_of(launch.command, "workdir")
    if not workdir or "://" in workdir or workers(launch) == 1:
        return
    if workdir.startswith("/") and (launch.processes or launch.shared_workdir):
        return
    cure = "an absolute path" if launch.processes else "gs://BUCKET/..., or add --shared_workdir to an absolute path"
    raise LaunchError(f"workdir {workdir!r} is not shared by the {workers(launch)} workers: give --workdir={cure}")
