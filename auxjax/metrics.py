"""Metrics: sums and counts inside jit; writers outside: JSON lines always, TensorBoard and W&B where asked for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from auxjax.errors import AuxjaxError, missing_extra
from auxjax.losses import mask_of, resized
from auxjax.storage import Folder, Lines, is_remote, read_text, write_text
from auxjax.untrusted import parse


def head_metrics(
    outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], heads: Mapping[str, Any]
) -> dict[str, dict[str, jax.Array]]:
    """Returns `{"correct", "count"}` of each head as float32 sums over its unmasked examples.

    The right class of a soft target float[..., N], N > 1, is its largest. Targets of another shape, as a loss function
    of the user's own may have, are never correct. Losses on maps of two sizes count at the one at which they compare.
    """
    results = {}
    for name, head in heads.items():
        logits, fitting = resized(name, head, outputs[name], batch)
        targets = fitting[head.target]
        shape = logits.shape[:-1]
        labels = targets if jnp.issubdtype(targets.dtype, jnp.integer) else targets.argmax(-1)
        # The largest of one number says nothing.
        classes = labels.shape == shape and logits.shape[-1] > 1
        correct = logits.argmax(-1) == labels if classes else jnp.zeros(shape)
        mask = mask_of(head, fitting, shape)
        results[name] = {"correct": (correct * mask).sum(), "count": mask.sum()}
    return results


def scores(sums: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Returns accuracy/name and loss/name of `{name: {"correct", "loss", "count"}}`, sums over a whole split."""
    counts = {name: max(float(total["count"]), 1.0) for name, total in sums.items()}
    accuracies = {f"accuracy/{name}": float(total["correct"]) / counts[name] for name, total in sums.items()}
    return accuracies | {f"loss/{name}": float(total["loss"]) / counts[name] for name, total in sums.items()}


class Writer(Protocol):
    """What a run writes to; the names are those of clu's writers, so that one of those serves too."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """Appends one JSON object a line; a killed run leaves every record on a disk, in a bucket those before a flush."""

    def __init__(self, path: Folder) -> None:
        self._lines = Lines(path)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes `{"step": step, **scalars}`; raises OSError where that cannot be, or would be into a removed file."""
        self._lines.append(json.dumps({"step": step, **scalars}, default=float) + "\n")

    def flush(self) -> None:
        """Hands what was written to the disk or the bucket."""
        self._lines.flush()

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


class TensorBoard:
    """TensorBoard event files through tensorboardX, which needs no TensorFlow."""

    def __init__(self, folder: Folder) -> None:
        try:
            import tensorboardX
        except ImportError:
            raise missing_extra("tensorboardX", "tensorboard") from None
        self._writer = tensorboardX.SummaryWriter(str(folder))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes every number under `split/name`."""
        for name, value in _numbers(scalars).items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hands what was written to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


class WeightsAndBiases:
    """A W&B run; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Folder, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise missing_extra("wandb", "wandb") from None
        # Kept in the folder, so that a resumed run goes on and a folder of the same name elsewhere is another run.
        identity = folder / "wandb_id"
        if not identity.exists() or not identity.read_text():
            identity.write_text(uuid.uuid4().hex)
        here = None if is_remote(folder) else str(folder)  # W&B's own files stay on this machine.
        self._run = wandb.init(
            dir=here, name=folder.name, config=dict(config), resume="allow", id=identity.read_text(),
            reinit="create_new",  # members of a population have their runs side by side
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes every number under `split/name`."""
        self._run.log(_numbers(scalars), step=step)

    def flush(self) -> None:
        """Does nothing: W&B sends in the background."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class MultiWriter:
    """Several writers as one."""

    def __init__(self, writers: list[Writer]) -> None:
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes to each."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        """Flushes each."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes each."""
        for writer in self._writers:
            writer.close()


def open_writers(folder: Folder, config: Any) -> MultiWriter:
    """Returns the writers that `config.writers` asks for, JSON lines always; raises AuxjaxError for a missing extra."""
    writers: list[Writer] = []
    if config.writers.tensorboard:
        writers.append(TensorBoard(folder / "tensorboard"))
    if config.writers.wandb:
        writers.append(WeightsAndBiases(folder, config.to_dict()))
    return MultiWriter([JsonLines(folder / "metrics.jsonl"), *writers])


def read(path: Folder) -> list[dict[str, Any]]:
    """Returns the records of a metrics file; a last line cut short by a crash is left out."""
    records = []
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = parse(line)
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                raise ValueError
            records.append(record)
        except ValueError:
            if number < len(lines):
                raise AuxjaxError(f"{path} line {number} is no JSON: delete that line to go on") from None
    return records


def truncate_after(path: Folder, step: int) -> None:
    """Drops the records past `step`, which a resumed run writes anew; the file is replaced whole or not at all."""
    if not path.exists():
        return
    kept = [record for record in read(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def _numbers(scalars: Mapping[str, Any]) -> dict[str, float]:
    prefix = f"{scalars['split']}/" if "split" in scalars else ""
    return {prefix + name: float(value) for name, value in scalars.items() if not isinstance(value, str)}
