"""Several processes as one run: they meet, start `jax.distributed`, agree on values; process 0 alone writes.

A process that dies ends the others within 2 s, with exit code 75; one whose host vanishes without a word, within 30 s,
when jaxlib's heartbeat aborts them with code 134, which Python cannot catch. One that fails with an error ends them
within 6 s, with code 2. Whoever started them starts all of them again, and they go on from the last checkpoint.
"""

from __future__ import annotations

import atexit
import glob
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import jax

# The only module that has the key-value store of jax.distributed, which needs no device and no compilation.
from jax._src import distributed

from auxjax.errors import AuxjaxError
from auxjax.peers import Peers
from auxjax.rendezvous import meet

HEARTBEAT_SECONDS = 20
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Waiting in C++ hears no Ctrl-C; this often Python looks up.
_SLICE_MILLISECONDS = 5_000
_CLEAN_EVERY = 1_000

Value = TypeVar("Value")
_agreed, _gathered = itertools.count(), itertools.count()
_peers: list[Peers] = []  # one where jax.distributed was started here


class Place(NamedTuple):
    """Which of how many processes this is, and where process 0 listens; `device_ids` None for all local devices."""

    address: str
    processes: int
    number: int
    device_ids: list[int] | None = None


def start() -> None:
    """Begins `jax.distributed` where this is one of several processes; call it before any device is touched.

    They are told by JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or found
    in a Slurm step, under Open MPI, or on the hosts of a TPU slice. Raises AuxjaxError where only some of the variables
    are set, and where not all processes come within AUXJAX_START_TIMEOUT seconds (60).
    """
    if jax.distributed.is_initialized():
        return
    place = told(os.environ) or detected(os.environ)
    if place is None or place.processes == 1:
        return
    seconds = _seconds(os.environ)
    # jaxlib aborts a process whose peers do not come; before that, this finds out who is there.
    peers = Peers(meet(place.address, place.processes, place.number, seconds), place.processes)
    jax.distributed.initialize(
        place.address,
        place.processes,
        place.number,
        place.device_ids,
        "deactivate",
        initialization_timeout=int(max(seconds, 10)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
    _peers.append(peers)
    print_error = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        peers.follow()
        print_error(kind, error, trace)
        fail(f"{kind.__name__}: {error}", 1)

    sys.excepthook = hook
    atexit.register(_leave)


def fail(text: str, code: int) -> None:
    """Tells the other processes that this one fails, which ends them too; call it before exiting with `code`.

    It returns where all fail alike, and elsewhere ends this process itself. With one process it does nothing.
    """
    if _peers:
        _peers.pop().fail(text, code)


def _leave() -> None:
    for peers in _peers:
        peers.leave()
    jax.distributed.shutdown()


def count() -> int:
    """Returns how many processes run as one; touches no device."""
    return int(distributed.global_state.num_processes) if jax.distributed.is_initialized() else 1


def index() -> int:
    """Returns the number of this process, from 0; touches no device."""
    return int(distributed.global_state.process_id) if jax.distributed.is_initialized() else 0


def is_writer() -> bool:
    """Returns whether this process writes what a run writes once: process 0 does."""
    return index() == 0


def agree(value: Any) -> Any:
    """Returns process 0's `value`, small JSON, in every process; all have to call it, in the same order."""
    if count() == 1:
        return value
    number = next(_agreed)
    key = f"auxjax/agree/{number}"
    if is_writer():
        _client().key_value_set(key, json.dumps(value))
        agreed = json.loads(json.dumps(value))
    else:
        agreed = json.loads(_read(key))
    if number % _CLEAN_EVERY == _CLEAN_EVERY - 1:
        barrier("all have read")
        if is_writer():
            _client().key_value_delete("auxjax/agree/")
        barrier("all is deleted")
    return agreed


def gather(value: Any) -> list[Any]:
    """Returns every process's `value`, small JSON, by number; all have to call it, in the same order."""
    if count() == 1:
        return [value]
    key = f"auxjax/gather/{next(_gathered)}/"
    _client().key_value_set(f"{key}{index()}", json.dumps(value))
    return [json.loads(_read(f"{key}{i}")) for i in range(count())]


def barrier(name: str) -> None:
    """Returns when every process is here; all have to call it, in the same order."""
    if count() > 1:
        gather(name)


def together(function: Callable[[], Value]) -> Value:
    """Returns `function()` if it succeeds in every process; else raises in all of them, so that none waits in vain.

    A process raises its own exception; the others an AuxjaxError with the first that failed and its message.
    """
    if count() == 1:
        return function()
    try:
        value = function()
    except Exception as error:
        gather(" ".join(str(error).split())[:500] or type(error).__name__)
        raise
    for number, text in enumerate(gather("")):
        if text:
            raise AuxjaxError(f"process {number} of {count()}: {text}")
    return value


def alone(what: str) -> None:
    """Raises AuxjaxError where this is one of several processes, started or only told of."""
    place = told(os.environ)
    several = max(count(), place.processes if place else 1, int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1))
    if several > 1:
        raise AuxjaxError(f"{what} runs in one process, and this is one of {several}: start it once")


def _read(key: str) -> str:
    while True:
        try:
            return str(_client().blocking_key_value_get(key, _SLICE_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _client() -> Any:
    return distributed.global_state.client


def told(environment: Any) -> Place | None:
    """Returns the place that JAX's variables name; raises AuxjaxError where one is missing or wrong."""
    given = {name: environment.get(name, "") for name in _VARIABLES}
    if given["JAX_NUM_PROCESSES"] == "1" or not (given["JAX_NUM_PROCESSES"] or given["JAX_PROCESS_ID"]):
        return None
    for name, text in given.items():
        if not text:
            raise AuxjaxError(f"{name} is not set: several processes need {', '.join(_VARIABLES)}")
    address, number, place = given.values()
    if not number.isdigit() or not place.isdigit() or not 0 <= int(place) < int(number):
        raise AuxjaxError(f"JAX_PROCESS_ID={place} is no number from 0 below JAX_NUM_PROCESSES={number}")
    if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
        raise AuxjaxError(f"JAX_COORDINATOR_ADDRESS={address} is not HOST:PORT, as in 10.0.0.1:8476")
    local = environment.get("JAX_LOCAL_DEVICE_IDS")
    return Place(address, int(number), int(place), [int(i) for i in local.split(",")] if local else None)


def detected(environment: Any) -> Place | None:
    """Returns what JAX finds in a Slurm step, under Open MPI or on a TPU host; None elsewhere."""
    slurm = int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1
    open_mpi = int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1
    if not (slurm or open_mpi or on_tpu(environment)):
        return None
    from jax._src.clusters import ClusterEnv

    how = f"set {', '.join(_VARIABLES)}"
    try:
        address, number, place, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(_seconds(environment))
        )
    except (OSError, RuntimeError) as error:  # no answer from the TPU's metadata server, or no such host
        raise AuxjaxError(f"this TPU host does not say what slice it is of: {error}; {how}") from None
    if address is None or number is None or place is None:
        if slurm or open_mpi:
            raise AuxjaxError(f"this is one of several processes, but JAX cannot tell which: {how}")
        return None
    return Place(address, number, place, None if devices is None else list(devices))


def on_tpu(environment: Any) -> bool:
    """Returns whether this is a TPU's host that JAX will use as such; nothing is touched."""
    platforms = environment.get("JAX_PLATFORMS", "")
    devices = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return (not platforms or "tpu" in platforms) and bool(devices) and importlib.util.find_spec("libtpu") is not None


def _seconds(environment: Any) -> float:
    text = environment.get("AUXJAX_START_TIMEOUT") or "60"
    try:
        return float(text)
    except ValueError:
        raise AuxjaxError(f"AUXJAX_START_TIMEOUT={text} is no number of seconds") from None
