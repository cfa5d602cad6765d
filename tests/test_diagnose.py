"""diagnose(): a checkpoint's diagnostics on demand are those of its state, and are kept beside the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import auxjax
from auxjax import config as configs
from auxjax import metrics
from auxjax.diagnose import diagnose, draw, load_state
from auxjax.diagnostics.gradient_norm import gradient_norm
from auxjax.diagnostics.table import table
from auxjax.errors import AuxjaxError
from tests.equal import equal


@pytest.fixture(scope="module")
def finished(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> auxjax.Result:
    """A run on two devices whose weights are learnt, so that its weighting has a state."""
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 2, "width": 8}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.weighting = {"name": "uncertainty"}
    made.data.update(data_dir=data_dir, batch_size=32, eval_batch_size=360)
    made.parallel.num_devices = 2
    made.train.update(total_epochs=0.0, total_steps=4, eval_epochs=0.0, eval_steps=4)
    made.train.update(checkpoint_epochs=0.0, checkpoint_steps=2, keep_last=2)
    return auxjax.train(made, tmp_path_factory.mktemp("diagnosed"))


def test_the_state_is_restored_whole_at_any_step(finished: auxjax.Result) -> None:
    assert finished.workdir is not None
    state, setup, config = load_state(finished.workdir)
    assert int(state.step) == 4
    equal(state, finished.state)
    batch = draw(setup, config, "test", 50)
    assert batch["image"].shape == (50, 8, 8, 1)
    assert len(set(batch["label"][:10].tolist())) > 2
    assert int(load_state(finished.workdir, 2)[0].step) == 2
    first = load_state(finished.workdir, 0)[0]
    assert int(first.step) == 0
    records = diagnose(finished.workdir, ["gradient_norm"], step=2, examples=64)
    earlier = load_state(finished.workdir, 2)[0]
    expected = jax.jit(gradient_norm)(earlier, draw(setup, config, "train", 64))
    np.testing.assert_allclose(records[0]["norm"], expected["norm"], rtol=1e-5)
    assert records[0]["weights"] != records[0]["weights"][:1] * 2  # as the weighting has learnt them


def test_records_are_appended_and_shown(finished: auxjax.Result, capsys: Any) -> None:
    assert finished.workdir is not None
    path = finished.workdir / "diagnostics.jsonl"
    before = len(metrics.read(path)) if path.exists() else 0
    records = diagnose(finished.workdir, ["similarity", "variance"], split="test", examples=40)
    assert metrics.read(path)[before:] == records
    assert [(r["step"], r["split"], r["examples"]) for r in records] == [(4, "test", 40)] * 2
    lines = [table(record).splitlines() for record in records]
    assert lines[0][0].startswith("similarity (step 4, split test, examples 40, seconds ")
    assert any(line.split() == ["cosine", "with", "main", "main", "aux1"] for line in lines[0])
    assert any(line.split()[0] == "logits" and line.split()[1:] == ["1", "-"] for line in lines[0])
    assert [line.split()[0] for line in lines[1] if line.split()[0] in ("main", "aux1", "total")] == [
        "main", "aux1", "total",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["gradient_nom"]}, "unknown diagnostic 'gradient_nom'; did you mean 'gradient_norm'"),
        ({"step": 3}, "no step 3 in .*; there are: last, best, 2, 4"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"examples": 5000}, "examples=5000, and split 'train' has"),
        ({"workdir": "/nowhere"}, "no run in /nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, Any], message: str, finished: auxjax.Result) -> None:
    given: dict[str, Any] = {"workdir": finished.workdir, "names": ["gradient_norm"], **arguments}
    with pytest.raises(AuxjaxError, match=message) as error:
        diagnose(given.pop("workdir"), given.pop("names"), **given)
    assert "\n" not in str(error.value)


def test_a_run_without_a_checkpoint_says_so(finished: auxjax.Result, tmp_path: Path) -> None:
    assert finished.workdir is not None
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_text((finished.workdir / name).read_text())
    with pytest.raises(AuxjaxError, match=r"no checkpoint in .*take step 0"):
        diagnose(tmp_path, ["gradient_norm"])
