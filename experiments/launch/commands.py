"""The argument lists of gcloud, ssh and the worker's script; pure, and tested word by word."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

from experiments.launch import slices
from experiments.launch.options import Launch

LOCK_FILE = "/tmp/libtpu_lockfile"
DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_PATIENCE = ("-oConnectTimeout=20", "-oServerAliveInterval=15")  # or a host that is gone is waited for without end


def create(launch: Launch) -> list[str]:
    """Requests the slice; the request and its VM have the same name."""
    runtime = launch.runtime or slices.sizes(launch.type).runtime
    flags = [f"--node-id={launch.name}", f"--accelerator-type={launch.type}", f"--runtime-version={runtime}"]
    flags += ["--spot"] if launch.spot else []
    return ["gcloud", "compute", "tpus", "queued-resources", "create", launch.name, *flags, *_place(launch)]


def describe_request(launch: Launch) -> list[str]:
    """Prints the request as JSON: `{"state": {"state": "ACTIVE"}}`."""
    return ["gcloud", "compute", "tpus", "queued-resources", "describe", launch.name, "--format=json", *_place(launch)]


def describe_node(launch: Launch) -> list[str]:
    """Prints the VM as JSON: `{"state": "READY", "networkEndpoints": [...]}`, an endpoint for each host."""
    return ["gcloud", "compute", "tpus", "tpu-vm", "describe", launch.name, "--format=json", *_place(launch)]


def delete(launch: Launch) -> list[str]:
    """Deletes the request, and its VM with it (--force)."""
    return ["gcloud", "compute", "tpus", "queued-resources", "delete", launch.name, "--force", *_place(launch)]


def remote(launch: Launch, worker: int, line: str) -> list[str]:
    """Runs a line of shell in the home folder of a worker."""
    if launch.type:
        flags = [f"--worker={worker}", f"--command={line}", "--strict-host-key-checking=no"]
        flags += [f"--ssh-flag={flag}" for flag in _PATIENCE]
        return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", launch.name, *flags, *_place(launch)]
    if launch.hosts:
        return ["ssh", *_ssh(launch), launch.hosts.split(",")[worker], line]
    return ["bash", "-c", f"cd && {line}"]


def copy(launch: Launch, worker: int, archive: str) -> list[str]:
    """Copies a file from here to the home folder of a worker, under the worker's own name."""
    target = archive_name(launch, worker)
    if launch.type:
        flags = [f"--worker={worker}", "--strict-host-key-checking=no", *_place(launch)]
        return ["gcloud", "compute", "tpus", "tpu-vm", "scp", archive, f"{launch.name}:{target}", *flags]
    if launch.hosts:
        return ["scp", "-q", *_ssh(launch), archive, f"{launch.hosts.split(',')[worker]}:{target}"]
    return ["bash", "-c", f"cp {shlex.quote(archive)} ~/{target}"]


def unpack(launch: Launch, worker: int) -> str:
    """Returns the line that replaces a worker's source; what the command itself wrote there stays."""
    root, archive = shlex.quote(root_of(launch, worker)), archive_name(launch, worker)
    return (
        f"mkdir -p {root}/source && if [ -f {root}/sync/files ]; then "
        f"(cd {root}/source && xargs -0 rm -f -- <../sync/files); fi && "
        f"tar -xzf {archive} -C {root} && rm {archive}"
    )


def on_worker(launch: Launch, worker: int, verb: str, *arguments: str) -> list[str]:
    """Runs a verb of worker.sh on a worker."""
    script = f"{root_of(launch, worker)}/source/experiments/launch/worker.sh"
    if launch.processes:
        return ["bash", os.path.join(os.path.expanduser("~"), script), verb, *arguments]
    return remote(launch, worker, shlex.join(["bash", script, verb, *arguments]))


def start(launch: Launch, worker: int, environment: Mapping[str, str]) -> list[str]:
    """Starts the job on a worker, detached."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return on_worker(launch, worker, "start", launch.job, *variables, "--", *launch.command)


def stop(launch: Launch, worker: int) -> list[str]:
    """Stops the job on a worker; on a TPU, which is ours alone, also whatever else holds its chips."""
    freed = (LOCK_FILE, *DEVICES) if launch.type else ()
    return on_worker(launch, worker, "stop", str(launch.grace_seconds), *freed)


def setup(launch: Launch, worker: int) -> list[str]:
    """Installs Python and the package on a worker."""
    extra = launch.extra if launch.extra is not None else "tpu" if launch.type else ""
    return on_worker(launch, worker, "setup", *([extra] if extra else []))


def check(launch: Launch, worker: int) -> list[str]:
    """Counts the devices of a worker, against the type's where it is a TPU."""
    if not launch.type:
        return on_worker(launch, worker, "check")
    size = slices.sizes(launch.type)
    return on_worker(launch, worker, "check", str(size.devices // size.hosts), str(size.hosts))


def environment(launch: Launch, worker: int, count: int, port: int) -> dict[str, str]:
    """Returns what a process needs to find the others; on a TPU slice JAX finds them by itself.

    A preempted run says so by its exit code to whom this says that somebody starts it again.
    """
    supervised = {"AUXJAX_SUPERVISED": "1"}
    if launch.type or count == 1:
        return supervised
    host = launch.hosts.split(",")[0].rpartition("@")[2] if launch.hosts else "127.0.0.1"
    address = launch.coordinator or f"{host}:{port}"
    numbers = {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(worker)}
    return {"JAX_COORDINATOR_ADDRESS": address, **numbers, **supervised}


def again(arguments: Sequence[str]) -> str:
    """Returns the launcher's own command with other arguments, for the user to paste."""
    return shlex.join(["python", "experiments/launch/tpu_vm.py", *arguments])


def root_of(launch: Launch, worker: int) -> str:
    """Returns a worker's folder: each has its own, so that several may share a machine or a home folder."""
    return f"{launch.folder}/{launch.name}/worker_{worker}"


def archive_name(launch: Launch, worker: int) -> str:
    """Returns the name of the copied archive in a worker's home folder."""
    return f"auxjax_{launch.name}_worker_{worker}.tar.gz"


def _place(launch: Launch) -> list[str]:
    project = [f"--project={launch.project}"] if launch.project else []
    return [f"--zone={launch.zone}", *project, "--quiet"]


def _ssh(launch: Launch) -> list[str]:
    return [*(["-F", launch.ssh_config] if launch.ssh_config else []), "-oBatchMode=yes", *_PATIENCE]
