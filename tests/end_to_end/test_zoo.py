"""Every network with its published heads trains, strips, exports and reloads, in float32 and in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import auxjax
from auxjax import config as configs
from auxjax import weighting
from auxjax.attach import Attached
from auxjax.export import bare_network, export_run, load_folder, write_stablehlo
from auxjax.heads import PRESETS, preset_config
from auxjax.models import MODELS
from auxjax.proof import prove_stripped
from auxjax.step import Main, Program, TrainState, create_state, train_step

pytest.importorskip("safetensors")
export = pytest.importorskip("jax.export")
pytest.importorskip("flatbuffers")

SIZES = {"inception_v3": 75, "inception_v4": 75, "inception_resnet_v2": 75, "alexnet": 64, "dsn": 16}
SMALLER: dict[str, dict[str, Any]] = {
    "nasnet_mobile": {"filters": 4}, "nasnet_large": {"filters": 8}, "nasnet_cifar": {"filters": 4},
    "darts_cifar": {"features": 8}, "darts_imagenet": {"features": 8},
}  # fmt: skip
SEGMENTATION = ("fcn", "pspnet", "unet")
# Networks that were published without heads train with a linear one.
PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "alexnet": ({}, "conv3"), "vgg": ({"depth": 11, "batch_norm": True}, "conv3_2"),
    "bn_inception": ({}, "inception_4a"), "resnet": ({"depth": 50, "stem": "small"}, "layer3"),
    "densenet": ({}, "denseblock3"), "vit": ({"variant": "S", "scan": True}, "encoder_layers[5]"),
}  # fmt: skip
QUICK = ("dsn",)
CLASSIFIERS = [name for name in PRESETS if PRESETS[name].model not in SEGMENTATION]
STEPS = 10


def marked(names: Any) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow_study]) for name in names]


def config_of(name: str, dtype: str) -> Any:
    config = configs.smoke(configs.base())
    if name in PLAIN:
        fields, at = PLAIN[name]
        config.model = {"name": name, **fields}
        config.heads = {"aux": configs.head(at=at, kind="linear")}
    else:
        config.model = {"name": PRESETS[name].model, **PRESETS[name].model_fields, **SMALLER.get(name, {})}
        config.heads = preset_config(name)
    config.dtype = dtype
    config.data.update(batch_size=8, image_size=SIZES.get(config.model.name, 32))
    config.optimizer.update(learning_rate=0.01, clip_norm=5.0)
    config.train.update(total_steps=STEPS, **configs.durations("eval", steps=STEPS))
    config.train.update(configs.durations("checkpoint", steps=STEPS))
    config.parallel.num_devices = 1  # eight that share a processor hold eight copies of a network
    return config


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow_study)])
@pytest.mark.parametrize("name", marked([*CLASSIFIERS, *PLAIN]))
def test_it_trains_strips_exports_and_reloads(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auxjax.models.alexnet.HIDDEN_FEATURES", 256)  # and VGG's: 120 million parameters fewer
    result = auxjax.train(config_of(name, dtype), tmp_path / "run", progress=False)
    losses = [record["loss/main"] for record in result.history if "loss/main" in record]
    assert np.isfinite(losses).all() and np.isfinite(list(result.evaluation.values())).all()
    assert not unmoved(result.state)
    files = export_run(tmp_path / "run", tmp_path / "shipped", ["safetensors", "stablehlo"])
    assert {"model.safetensors", "model.stablehlo"} <= {file.name for file in files}
    _, model, variables = load_folder(tmp_path / "shipped")
    size = SIZES.get(result.config.model.name, 32)
    x = np.random.default_rng(0).normal(size=(3, size, size, 1)).astype(np.float32)
    expected = jax.jit(lambda v, x: model.apply(v, x, train=False))(result.variables, x)
    np.testing.assert_array_equal(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x), expected)
    exported = export.deserialize(bytearray((tmp_path / "shipped" / "model.stablehlo").read_bytes())).call(x)
    tolerance = (1e-4 if dtype == "float32" else 0.1) * float(np.abs(expected).max())
    np.testing.assert_allclose(exported, np.asarray(expected, np.float32), atol=tolerance)


@pytest.mark.slow_study
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in PRESETS if name not in CLASSIFIERS])
def test_segmentation_trains_strips_and_exports(name: str, dtype: str, tmp_path: Path) -> None:
    preset, size = PRESETS[name], 256 if PRESETS[name].model == "unet" else 33
    fields = {**preset.model_fields, **({"features": 4} if preset.model == "unet" else {})}
    model = MODELS[preset.model](num_classes=2, dtype=jnp.dtype(dtype), **fields)
    attached = auxjax.attach(model, auxjax.presets(name, 2, jnp.dtype(dtype)))
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, size=(2, size, size)).astype(np.int32)
    image = (label[..., None] + rng.normal(size=(2, size, size, 3))).astype(np.float32)
    variables = trained(attached, image, label, STEPS)
    stripped = auxjax.strip(variables)
    prove_stripped(attached, variables, stripped, jnp.asarray(image))
    write_stablehlo(tmp_path / "model.stablehlo", bare_network(model, stripped, image.shape[1:]))


@pytest.mark.slow_study
def test_inception_v3_trains_with_its_head_at_the_published_size() -> None:
    model = MODELS["inception_v3"](num_classes=10)
    attached = auxjax.attach(model, auxjax.presets("inception_v3", 10))
    image = np.random.default_rng(0).normal(size=(2, 299, 299, 3)).astype(np.float32)
    variables = trained(attached, image, np.array([3, 7], np.int32), 2)
    assert variables["params"]["heads"]["aux"]["conv1"]["conv"]["kernel"].shape == (5, 5, 128, 768)
    prove_stripped(attached, variables, auxjax.strip(variables), jnp.asarray(image))


def trained(attached: Attached, image: np.ndarray, label: np.ndarray, steps: int) -> Any:
    """The variables after some steps on one batch; all metrics are finite."""
    weights = {name: head.weight for name, head in attached.heads.items() if head.weight != 0}
    program = Program(
        attached=attached, main=Main(), names=tuple(weights), optimizer=optax.sgd(0.01, momentum=0.9),
        weights=weighting.own_weights({"name": "constant"}, weights), total_steps=steps,
    )  # fmt: skip
    variables = jax.jit(attached.init)(jax.random.key(0), image[:1])
    state, step = create_state(program, variables, jax.random.key(1)), jax.jit(train_step)
    for _ in range(steps):
        state, metrics = step(state, {"image": image, "label": label, "mask": np.ones(len(label), np.float32)})
        assert all(np.isfinite(value) for value in jax.device_get(metrics).values())
    assert {path.split("/")[1] for path in unmoved(state)} == set(attached.heads) - set(weights)
    return state.variables


def unmoved(state: TrainState) -> list[str]:
    """The kernels, by path, whose momentum is zero: no gradient has reached them."""
    trace = flatten_dict(optax.tree.get(state.opt_state, "trace"), sep="/")
    return [path for path, value in trace.items() if path.endswith("kernel") and not np.asarray(value).any()]
