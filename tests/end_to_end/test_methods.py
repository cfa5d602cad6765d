"""Every method trains PlainNet and GoogLeNet for real, on Fashion-MNIST, on one device and on eight, and resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import auxjax
from auxjax import cli, data
from auxjax import config as configs
from auxjax.weighting import METHODS

pytestmark = [
    pytest.mark.slow_study,
    pytest.mark.skipif(
        not Path("/usr/share/datasets/fashion-mnist").exists(), reason="dataset-fashion-mnist is missing"
    ),
]
CONFIGS = Path(__file__).parents[2] / "configs"
# By config: steps, enough for main's loss to fall under the slowest method, images in each, the learning rate, and how
# many steps at both ends are compared: PlainNet, which starves, falls in its first few alone.
SHORT = {"plainnet_fashion_mnist": (40, 64, 0.02, 4), "googlenet_fashion_mnist": (30, 16, 0.01, 10)}
# Draws the losses to a ray on which main's is the largest, and so may raise it at first.
BALANCING = ("pbi",)
LOSSES, ALL = ("loss/main", "loss/aux"), ("loss/", "weight/", "grad_norm/")
# Its twenty steps at the authors' rate of 10 do not settle: a rounding of the gradients decides where they end.
RESTLESS = ("sdmgrad",)
# A gate that is undecided within rounding moves the network a little, and what it says more.
GATED = ("gcs_per_tensor",)
# On eight devices: every method on PlainNet, and one of each kind on GoogLeNet, which takes three minutes.
KINDS = ("uncertainty", "upgrad", "gradnorm", "gcs_per_tensor", "auxi_learn", "exp3")
WIDE = [("plainnet_fashion_mnist", method) for method in METHODS] + [
    ("googlenet_fashion_mnist", kind) for kind in KINDS
]


@pytest.fixture(autouse=True)
def programs_dropped() -> Iterator[None]:
    """A process has 65,530 memory maps, of which ten methods' programs for GoogLeNet take all."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data folder with all training images and the first 100 test images: it is training that is looked at."""
    whole = data.PREPARED["fashion_mnist"]

    def few(source: str | None) -> Any:
        splits, classes = whole(source)
        images, labels = splits["test"]
        return splits | {"test": (images[:100], labels[:100])}, classes

    folder = str(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.PREPARED, "fashion_mnist", few)
        data.prepare("fashion_mnist", folder)
    return folder


def config_of(name: str, method: str, data_dir: str, devices: int) -> Any:
    steps, batch_size, learning_rate, _ = SHORT[name]
    config = cli.load_config(CONFIGS / f"{name}.py")
    config.weighting = {"name": method}
    config.data.update(data_dir=data_dir, batch_size=batch_size, eval_batch_size=100, validation_examples=100)
    config.optimizer.schedule.update(name="constant", **configs.durations("warmup"))
    config.optimizer.learning_rate = learning_rate
    config.train.update(total_steps=steps, total_epochs=0.0, total_examples=0)
    for prefix in ("eval", "checkpoint"):
        config.train.update(configs.durations(prefix, steps=steps // 2))
    config.train.update(configs.durations("log", steps=1))
    config.train.keep_last = 2
    config.parallel.num_devices = devices
    return config


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SHORT)
def test_it_trains_and_resumes(name: str, method: str, fashion_mnist: str, tmp_path: Path) -> None:
    one = auxjax.train(config_of(name, method, fashion_mnist, 1), tmp_path / "run", progress=False)
    losses = [record["loss/main"] for record in one.history if "weight/main" in record]
    assert np.isfinite(losses).all()
    ends = SHORT[name][-1]
    assert method in BALANCING or np.mean(losses[-ends:]) < np.mean(losses[:ends])
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    (tmp_path / "run" / "DONE").unlink()
    newest.rename(tmp_path / "last")
    again = auxjax.train(config_of(name, method, fashion_mnist, 1), tmp_path / "run", progress=False)
    jax.tree.map(np.testing.assert_array_equal, again.state.params, one.state.params)


@pytest.mark.parametrize(("name", "method"), WIDE)
def test_eight_devices_give_what_one_gives(name: str, method: str, fashion_mnist: str) -> None:
    """In float64: in float32 a step of GoogLeNet on sixteen images multiplies a rounding by a thousand."""
    histories = []
    for devices in (1, 8):
        config = config_of(name, method, fashion_mnist, devices)
        config.update(dtype="float64")
        config.train.total_steps = 5
        with jax.enable_x64(True):
            histories.append(auxjax.train(config, progress=False).history)
    # Parameters and their gradients stay float32, and famo divides small differences of losses.
    prefixes = LOSSES if method in RESTLESS else ALL
    for records in zip(*histories, strict=True):
        one, eight = ([value for key, value in record.items() if key.startswith(prefixes)] for record in records)
        loose = method in GATED and records[0]["split"] != "train"
        np.testing.assert_allclose(eight, one, rtol=1e-3 if loose else 1e-4, atol=1e-7)
