"""Every config trains in its smoke form, saves, and evaluates from disk; all build in full where their data is here."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

import auxjax
from auxjax import build, check, cli
from auxjax.heads import cost

# These networks take up to a minute to compile.
SLOW = ("googlenet_cifar100", "googlenet_fashion_mnist", "googlenet_imagenet", "googlenet_digits", "resnet18_digits")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_opens_with_its_command_and_is_valid(path: Path) -> None:
    assert f"--config=configs/{path.name}" in path.read_text().split('"""')[1]
    config = check.finalize(cli.load_config(path))
    model = build.model(config, 10)
    size = config.data.image_size or 28
    image = jax.ShapeDtypeStruct((1, size, size, 1), "float32")
    assert cost(model, image)["params"] > 0
    attached = auxjax.attach(model, build.heads(config, 10))
    shapes = jax.eval_shape(lambda x: attached.init(jax.random.key(0), x), image)
    assert set(shapes["params"]["heads"]) == set(config.heads)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow_study] if path.stem in SLOW else []) for path in CONFIGS],
    ids=lambda path: path.stem,
)
def test_a_config_trains_in_its_smoke_form(path: Path, data_dir: str, tmp_path: Path) -> None:
    config = cli.load_config(path, "smoke")
    config.data.data_dir = data_dir
    config.parallel.num_devices = 1  # eight devices made of two cores take minutes for GoogLeNet
    result = auxjax.train(config, tmp_path)
    assert {"accuracy/main", *(f"accuracy/{name}" for name in config.heads)} <= set(result.evaluation)
    scores = auxjax.evaluate(tmp_path, step="best")
    assert 0 <= scores["accuracy/main"] <= 1
