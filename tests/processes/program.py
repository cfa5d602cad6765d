"""What each process of a test runs: the trainings of a plan, one after another; process 0 keeps what each left."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def config(data_dir: str, changes: dict[str, Any]) -> Any:
    """A PlainNet with BatchNorm and one head, 4 steps of flipped digits; its second layer is large enough to split."""
    from auxjax import config as configs

    made = configs.base()
    made.model = {"name": "plainnet", "depth": 2, "width": 64, "norm": "batch"}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.data.update(data_dir=data_dir, batch_size=32, eval_batch_size=200)
    made.data.augment.flip = True
    made.optimizer.clip_norm = 1.0
    made.train.update(total_epochs=0.0, total_steps=4, eval_epochs=0.0, eval_steps=2, log_steps=1)
    made.train.update(checkpoint_epochs=0.0, checkpoint_steps=2, keep_last=4)
    made.update_from_flattened_dict(changes)
    return made


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Every array of a tree by path, keys as their data."""
    import jax

    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    keys = jax.dtypes.prng_key
    return {
        jax.tree_util.keystr(path): np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, keys) else x)
        for path, x in named
    }


def arrays(result: Any) -> dict[str, np.ndarray]:
    """What a run left: its whole state by path, `losses` and `accuracy`."""
    losses = [record["loss/total"] for record in result.history if record["split"] == "train"]
    return leaves(result.state) | {
        "losses": np.array(losses),
        "accuracy": np.array(result.evaluation["accuracy/main"]),
    }


def agree() -> None:
    """Checks what processes tell one another, more often than the store of it is cleaned."""
    from jax._src import xla_bridge

    from auxjax import processes

    for number in range(1010):
        assert processes.agree({"number": number, "process": processes.index()}) == {"number": number, "process": 0}
    assert processes.gather(processes.index()) == list(range(processes.count()))
    try:
        processes.together(lambda: 1 / (processes.index() - 1))
    except Exception as error:
        touched = xla_bridge.backends_are_initialized()
        told = f"{type(error).__name__} {error}, devices touched: {touched}"
        print(f"process {processes.index()} agrees: {told}", flush=True)


def kill() -> None:
    """Ends this process as the kernel does."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    """Hangs this process as a lost host does: it neither computes nor answers."""
    os.kill(os.getpid(), signal.SIGSTOP)


def mistake() -> None:
    """Raises what the code does not foresee."""
    raise RuntimeError("no such pixel")


def complain() -> None:
    """Raises what the user can mend."""
    from auxjax.errors import AuxjaxError

    raise AuxjaxError("record 7 is damaged")


WAYS = {"kill": kill, "stop": stop, "mistake": mistake, "complain": complain}


def die_at(process: int, last: int, how: Callable[[], None]) -> None:
    """Lets something happen to a process just after a step was begun."""
    from auxjax import processes
    from auxjax.record import Recorder

    record = Recorder.step

    def begun(self: Recorder, step: int, values: Any) -> None:
        record(self, step, values)
        if step == last and processes.index() == process:
            how()

    Recorder.step = begun  # type: ignore[method-assign]


def main() -> None:
    """Runs the plan of the file given: `{"data_dir", "runs": [{"workdir", "changes", ...}], "results"}`."""
    import auxjax
    from auxjax import processes
    from auxjax.errors import AuxjaxError

    plan = json.loads(Path(sys.argv[1]).read_text())
    try:
        processes.start()
        if processes.count() > 1:
            agree()
        if "die" in plan:
            process, step, way = plan["die"]
            die_at(process, step, WAYS[way])
        for number, run in enumerate(plan["runs"]):
            workdir = run["workdir"].replace("PROCESS", str(processes.index()))
            changes = run["changes"] | (run.get("other", {}) if processes.index() else {})
            try:
                result = auxjax.train(config(plan["data_dir"], changes), workdir, progress=False)
            except AuxjaxError as error:
                if not run.get("fails"):
                    raise
                print(f"process {processes.index()} of {processes.count()}: {error}", flush=True)
                continue
            np.savez(
                f"{plan['results']}_{number}_process_{processes.index()}.npz", allow_pickle=False, **arrays(result)
            )
    except AuxjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        processes.fail(str(error), 2)
        sys.exit(2)


if __name__ == "__main__":
    main()
