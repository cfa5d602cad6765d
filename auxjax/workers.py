"""Groups of runs that share a program, trained in this process or as Ray tasks; their folders are locked."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections

from auxjax import config as configs
from auxjax.errors import TRY_AGAIN, AuxjaxError, missing_extra
from auxjax.population import Outcome, outcome, train_members
from auxjax.preemption import Preempted

logger = logging.getLogger("auxjax")

_RETRIES = 10  # of a group whose machine was lost; each goes on from the checkpoints
_SAY_SECONDS = 60.0

Group = Sequence[tuple[ml_collections.ConfigDict, Path]]
Trained = Iterator[tuple[list[str], list[Outcome]]]


class Cluster(NamedTuple):
    """A Ray cluster and what a group needs there: "local", "auto" (RAY_ADDRESS, or the one on this machine) or an
    address, and CPUs, GPUs and named resources (`{"TPU": 4}`) for each group."""

    address: str = "auto"
    num_cpus: float = 1
    num_gpus: float = 0
    resources: Mapping[str, float] = {}


def parse_resources(given: Sequence[str]) -> dict[str, float]:
    """Returns `{"TPU": 4.0}` of ["TPU=4"]; raises AuxjaxError for what is no such pair."""
    try:
        return {name: float(amount) for name, amount in (pair.split("=") for pair in given)}
    except ValueError:
        raise AuxjaxError(f"--resources={','.join(given)}: write name=amount, as in TPU=4") from None


def train_here(groups: Sequence[Group], execution: str) -> Trained:
    """Yields names and Outcomes of each group's runs as it finishes, one group after the other."""
    for group in groups:
        yield [folder.name for _, folder in group], train_group(group, execution)


def train_on_ray(groups: Sequence[Group], execution: str, cluster: Cluster) -> Trained:
    """Yields names and Outcomes of each group's runs as it finishes, each group a task of a Ray cluster.

    The runs' folders, and the packages, are to be the same on every machine. A group whose machine is lost starts again
    on another and goes on from its checkpoints; what fails for good is an Outcome and stops no other group. Raises
    AuxjaxError where Ray is missing or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise missing_extra("ray", "ray") from None
    task = ray.remote(
        num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, resources=dict(cluster.resources),
        max_retries=_RETRIES, max_calls=1,  # a new process for each group: JAX keeps a device's memory to its end
    )(_task)  # fmt: skip
    address = None if cluster.address == "local" else cluster.address
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None)
    except (ConnectionError, ValueError) as error:
        raise AuxjaxError(f"no Ray cluster at {cluster.address!r}: {_one_line(error)}") from None
    try:
        waiting = {
            task.remote([(configs.to_json(c), str(folder)) for c, folder in group], execution): group
            for group in groups
        }
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_SAY_SECONDS)
            if not ready:
                free = {k: v for k, v in ray.available_resources().items() if not k.startswith("node:")}
                logger.info("%d groups not finished; free on the cluster: %s", len(waiting), free)
            for reference in ready:
                group = waiting.pop(reference)
                try:
                    outcomes = ray.get(reference)
                except ray.exceptions.RayError as error:
                    outcomes = [Outcome(folder, "failed", _one_line(error), {}, []) for _, folder in group]
                yield [folder.name for _, folder in group], outcomes
    finally:
        ray.shutdown()


def train_group(group: Group, execution: str) -> list[Outcome]:
    """Returns the Outcomes of runs that share a program; waits while another process trains one of them."""
    made, folders = [config for config, _ in group], [folder for _, folder in group]
    with contextlib.ExitStack() as stack:
        # In one order everywhere, or two processes could each wait for the other.
        for folder in sorted(folders):
            stack.enter_context(locked(folder))
        try:
            return train_members(made, folders, execution=execution, progress=False)
        except Exception as error:  # of the program that all share, as one that fits in no memory
            return [outcome.read(folder) or outcome.broken(folder, "failed", error, 0, []) for folder in folders]
        finally:
            # On a CPU a large program takes thousands of memory maps, of which Linux gives a process 65,530.
            jax.clear_caches()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run's folder, which it makes, for this process; the lock is gone with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process trains %s: waiting for it", folder.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _task(group: Sequence[tuple[str, str]], execution: str) -> list[Outcome]:
    try:
        return train_group([(configs.from_json(text), Path(folder)) for text, folder in group], execution)
    except Preempted:
        os._exit(TRY_AGAIN)  # all is saved, and a worker that is gone is what Ray tries again elsewhere


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
