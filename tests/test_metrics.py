"""Sums of right answers, and records that survive a crash."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from auxjax import metrics
from auxjax.errors import AuxjaxError

LOGITS = jnp.array([[2.0, 1, 0], [0, 2, 1], [0, 1, 2], [2, 1, 0]])


def head(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"loss": "softmax_cross_entropy", "target": "label", "mask": "mask"} | fields)


def writers(tensorboard: bool = False, wandb: bool = False) -> Any:
    return ml_collections.ConfigDict({"writers": {"tensorboard": tensorboard, "wandb": wandb}})


@pytest.mark.parametrize("soft", [False, True])
def test_right_answers_are_counted_under_each_heads_mask(soft: bool) -> None:
    labels = jnp.array([0, 1, 0, 1])
    targets = 0.8 * jnp.eye(3)[labels] + 0.1 if soft else labels
    batch = {"label": targets, "mask": jnp.array([1.0, 0, 1, 1])}
    heads = {"main": head(), "aux": head(mask="none")}
    got = metrics.head_metrics({"main": LOGITS, "aux": LOGITS}, batch, heads)
    assert {k: (float(v["correct"]), float(v["count"])) for k, v in got.items()} == {"main": (1, 3), "aux": (2, 4)}


def test_targets_that_are_no_classes_are_never_right() -> None:
    heads = {"main": head(target="value")}
    got = metrics.head_metrics({"main": LOGITS}, {"value": jnp.ones(4)}, heads)["main"]
    assert (float(got["correct"]), float(got["count"])) == (0, 4)


def test_a_single_number_is_no_class() -> None:
    heads = {"main": head(target="value")}
    got = metrics.head_metrics({"main": LOGITS[:, :1]}, {"value": jnp.ones((4, 1))}, heads)["main"]
    assert (float(got["correct"]), float(got["count"])) == (0, 4)


def test_every_record_is_on_disk_before_the_next(tmp_path: Path) -> None:
    writer = metrics.open_writers(tmp_path, writers())
    for step in (1, 2):
        writer.write_scalars(step, {"split": "train", "loss/main": np.float32(0.5)})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))
    writer.flush()
    writer.close()
    assert metrics.read(tmp_path / "metrics.jsonl")[1] == {"step": 2, "split": "train", "loss/main": 0.5}
    again = metrics.open_writers(tmp_path, writers())
    again.write_scalars(3, {"split": "train"})
    again.close()
    assert [record["step"] for record in metrics.read(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_resumed_run_leaves_neither_doubles_nor_gaps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    splits = ("train", "test")
    records: list[dict[str, Any]] = [{"step": s, "split": split, "x": s / 3} for s in range(1, 6) for split in splits]
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 6, "spl')
    metrics.truncate_after(path, 3)
    assert metrics.read(path) == [record for record in records if record["step"] <= 3]
    assert path.read_text().endswith("}\n")
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    writer = metrics.JsonLines(path)
    for record in records[6:]:
        writer.write_scalars(record["step"], {k: v for k, v in record.items() if k != "step"})
    writer.close()
    assert metrics.read(path) == records
    metrics.truncate_after(path, 0)
    assert path.read_text() == ""


def test_only_the_last_line_may_be_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics.truncate_after(path, 3)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(AuxjaxError, match="line 2 is no JSON: delete that line"):
        metrics.read(path)


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    writer = metrics.open_writers(tmp_path, writers(tensorboard=True))
    writer.write_scalars(7, {"split": "train", "loss/main": 0.25})
    writer.flush()
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    scalars: dict[str, tuple[int, float]] = {}
    data = file.read_bytes()
    while data:  # a record: its length, a checksum, the event, a checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        scalars |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert scalars == {"train/loss/main": (7, 0.25)}
    assert len(metrics.read(tmp_path / "metrics.jsonl")) == 1


def test_runs_in_folders_of_one_name_are_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []

    def init(**fields: Any) -> SimpleNamespace:
        assert fields["reinit"] == "create_new", "a second run would end the first"
        ids.append(fields["id"])
        return SimpleNamespace(finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    first, other = (tmp_path / arm / "aux.alpha=0.3,seed=0" for arm in ("with", "without"))
    for folder in (first, other, first):
        folder.mkdir(parents=True, exist_ok=True)
        metrics.open_writers(folder, writers(wandb=True)).close()
    assert ids[0] == ids[2] != ids[1]
    # W&B takes no other characters in an id.
    assert all(id.isalnum() for id in ids)
    # What starts anew in a folder that was emptied is another run.
    shutil.rmtree(first)
    first.mkdir()
    metrics.open_writers(first, writers(wandb=True)).close()
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("package", "config"),
    [("wandb", writers(wandb=True)), ("tensorboardX", writers(tensorboard=True))],
)
def test_a_missing_extra_is_one_line(
    package: str, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AuxjaxError, match=rf"package '{package}' is missing: pip install 'auxjax\[\w+\]'"):
        metrics.open_writers(tmp_path, config)


def test_records_are_not_written_into_a_file_that_was_removed(tmp_path: Path) -> None:
    writer = metrics.JsonLines(tmp_path / "metrics.jsonl")
    writer.write_scalars(1, {"loss": 1.0})
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="removed while the run was writing it"):
        writer.write_scalars(2, {"loss": 1.0})
    writer.close()


def test_a_line_that_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in ("[1]", "3", '{"loss": 1.0}', '{"step": "1"}', "[" * 100_000):
        path.write_text(line + '\n{"step": 2}\n')
        with pytest.raises(AuxjaxError, match="line 1 is no JSON: delete that line"):
            metrics.read(path)
