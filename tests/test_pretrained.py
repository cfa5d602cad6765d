"""Weights in: strict both ways, and files that are damaged, hold code, or are of another network."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import auxjax
from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.models import GoogLeNet, ResNet, ViT
from auxjax.pretrained import import_weights, read_tensors, to_torchvision
from auxjax.torch_names import head_entries

safetensors = pytest.importorskip("safetensors.numpy")
CLASSES = 7


def filled(module: Any, size: int = 32) -> Any:
    """Random variables of the right shapes, without running an initialiser."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def resnet(**fields: Any) -> Attached:
    return auxjax.attach(ResNet(CLASSES, depth=18, **fields), {"aux": auxjax.Head("layer2", LinearProbe())})


def LinearProbe() -> Any:
    from auxjax.heads import LinearProbe

    return LinearProbe(CLASSES)


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, np.ndarray]:
    model = resnet().model
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(1)
    return to_torchvision(model, jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), variables))


def saved(folder: Path, state: dict[str, np.ndarray], name: str = "weights.safetensors") -> Path:
    safetensors.save_file(state, folder / name)
    return folder / name


def test_every_array_of_the_model_is_the_files_and_the_head_keeps_its_own(tmp_path: Path, resnet_state: Any) -> None:
    attached = resnet()
    before = filled(attached)
    after, report = import_weights(saved(tmp_path, resnet_state), attached, before)
    back = to_torchvision(attached.model, auxjax.strip(after))
    assert set(back) == set(resnet_state)
    for key, value in resnet_state.items():
        np.testing.assert_array_equal(back[key], value)
    jax.tree.map(np.testing.assert_array_equal, after["params"]["heads"], before["params"]["heads"])
    assert report.reinitialised == ("head aux",) and report.loaded == len(jax.tree.leaves(auxjax.strip(before)))
    assert "initial values kept: head aux" in str(report)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


def test_a_bare_model_imports_too_and_wrappings_are_taken_off(tmp_path: Path, resnet_state: Any) -> None:
    torch = pytest.importorskip("torch")
    model = resnet().model
    variables = auxjax.strip(filled(resnet()))
    tensors = {f"module.{key}": torch.from_numpy(value) for key, value in resnet_state.items()}
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "wrapped.pth")
    after, _ = import_weights(tmp_path / "wrapped.pth", model, variables)
    np.testing.assert_array_equal(after["params"]["fc"]["kernel"], resnet_state["fc.weight"].T)


def test_a_classifier_of_other_classes_is_an_error_until_it_is_reinitialised(tmp_path: Path, resnet_state: Any) -> None:
    state = {**resnet_state, "fc.weight": np.zeros((1000, 512), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    attached, path = resnet(), saved(tmp_path, state)
    before = filled(attached)
    with pytest.raises(AuxjaxError, match=r"fc\.\w+ is \[1000.*in the file and \[7.*reinitialise=\('fc',\)"):
        import_weights(path, attached, before)
    after, report = import_weights(path, attached, before, reinitialise=("fc",))
    np.testing.assert_array_equal(after["params"]["model"]["fc"]["kernel"], before["params"]["model"]["fc"]["kernel"])
    assert report.reinitialised == ("fc", "head aux") and "initial values kept: fc, head aux\n" in f"{report}\n"
    with pytest.raises(AuxjaxError, match="nothing to reinitialise is called 'layer9'; did you mean 'layer"):
        import_weights(path, attached, before, reinitialise=("layer9",))
    with pytest.raises(AuxjaxError, match=r"is called 'xyz'; valid: .*conv1.*fc"):
        import_weights(path, attached, before, reinitialise=("xyz",))


def test_every_module_that_differs_is_named_at_once_and_by_its_own_name(tmp_path: Path) -> None:
    model = GoogLeNet(CLASSES, variant="torchvision")
    variables = filled_bare(model)
    state = to_torchvision(model, variables)
    state["conv1.conv.weight"] = np.zeros((64, 1, 7, 7), np.float32)
    state["fc.weight"], state["fc.bias"] = np.zeros((1000, 1024), np.float32), np.zeros(1000, np.float32)
    path = saved(tmp_path, state)
    with pytest.raises(AuxjaxError, match=r"reinitialise=\('conv1/conv', 'logits'\) would leave them out"):
        import_weights(path, model, variables)
    with pytest.raises(AuxjaxError, match="is called 'fc'; torchvision's fc is logits here"):
        import_weights(path, model, variables, reinitialise=("conv1", "fc"))
    _, report = import_weights(path, model, variables, reinitialise=("conv1/conv", "logits"))
    assert report.loaded == len(jax.tree.leaves(variables)) - 3 and report.reinitialised == ("conv1/conv", "logits")
    narrow = {key: value[..., :1] if value.ndim == 4 else value for key, value in state.items()}
    with pytest.raises(AuxjaxError, match=r"\d\d modules differ, so the file is of another network"):
        import_weights(saved(tmp_path, narrow), model, variables)


def test_a_single_array_may_be_reinitialised(tmp_path: Path) -> None:
    model = ViT(CLASSES, variant="S")
    variables = filled_bare(model)
    other = np.ones((1, 197, 384), np.float32)
    path = saved(tmp_path, {**to_torchvision(model, variables), "encoder.pos_embedding": other})
    with pytest.raises(AuxjaxError, match=r"reinitialise=\('pos_embedding',\) would leave it out"):
        import_weights(path, model, variables)
    _, report = import_weights(path, model, variables, reinitialise=("pos_embedding",))
    assert report.reinitialised == ("pos_embedding",)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "other"])
def test_strict_both_ways(tmp_path: Path, resnet_state: Any, change: str) -> None:
    state, attached = dict(resnet_state), resnet()
    if change == "missing":
        del state["layer3.1.bn2.running_var"]
        message = "1 tensors are missing, 'layer3.1.bn2.running_var' first"
    elif change == "extra":
        state["layer5.0.conv1.weight"] = np.zeros((3, 3), np.float32)
        message = "1 tensors are too many, 'layer5.0.conv1.weight' first"
    elif change == "shape":
        state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:, :, :1]
        message = r"layer1\.0\.conv1\.weight is \[64, 64, 1, 3\] in the file and \[64, 64, 3, 3\] in this network"
    else:
        attached = auxjax.attach(ResNet(CLASSES, depth=50), {})
        message = "not of this ResNet: .* tensors are missing"
    variables = filled(attached)
    with pytest.raises(AuxjaxError, match=message) as error:
        import_weights(saved(tmp_path, state), attached, variables)
    assert "\n" not in str(error.value)


def test_googlenets_heads_were_never_trained_and_stay_in_the_file(tmp_path: Path) -> None:
    attached = auxjax.attach(
        GoogLeNet(CLASSES, variant="torchvision"), auxjax.presets("googlenet_torchvision", CLASSES)
    )
    variables = filled(attached)
    state = to_torchvision(attached.model, auxjax.strip(variables))
    for name, head in attached.heads.items():
        own = {collection: halves["heads"][name] for collection, halves in variables.items()}
        for entry in head_entries(attached.model, head.at, own):
            collection, *path = entry.path.split("/")
            leaf = own[collection]
            for key in path:
                leaf = leaf[key]
            state.update({key: value + 1 for key, value in entry.to_torch(leaf).items()})
    file = saved(tmp_path, state)
    after, report = import_weights(file, attached, variables)
    jax.tree.map(np.testing.assert_array_equal, after["params"]["heads"], variables["params"]["heads"])
    assert report.dropped == ("head aux1", "head aux2") and "never trained" in str(report)
    after, report = import_weights(file, attached, variables, heads=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b + 1), after["params"]["heads"], variables["params"]["heads"]
    )
    assert not report.dropped and not report.reinitialised


def test_models_that_torchvision_has_not_are_refused(tmp_path: Path, resnet_state: Any) -> None:
    file = saved(tmp_path, resnet_state)
    for model, message in (
        (GoogLeNet(CLASSES), "variant='torchvision', not variant='paper'"),
        (ResNet(CLASSES, depth=18, stem="small"), "has stem='imagenet', not 'small'"),
        (auxjax.models.PlainNet(CLASSES), "torchvision has no PlainNet of this form; it has: AlexNet"),
    ):
        with pytest.raises(AuxjaxError, match=message):
            import_weights(file, model, filled_bare(model))


def filled_bare(model: Any) -> Any:
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 32, 32, 3)))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def test_files_that_are_no_weights_give_one_line(tmp_path: Path, resnet_state: Any) -> None:
    whole = saved(tmp_path, resnet_state)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "weights.h5").write_bytes(b"")
    for name, message in (
        ("cut.safetensors", "is no whole safetensors file"),
        ("empty.safetensors", "is no whole safetensors file"),
        ("weights.h5", "must be a .pth, .pt, .safetensors file"),
        ("weight.safetensors", "no weights file .*; did you mean 'weights.safetensors'"),
    ):
        with pytest.raises(AuxjaxError, match=message) as error:
            read_tensors(tmp_path / name)
        assert "\n" not in str(error.value)


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/auxjax_was_here"),)


def test_pickles_with_code_are_refused_and_run_nothing(tmp_path: Path, resnet_state: Any) -> None:
    torch = pytest.importorskip("torch")
    marker = Path("/tmp/auxjax_was_here")
    marker.unlink(missing_ok=True)
    torch.save({"conv1.weight": Malicious()}, tmp_path / "code.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious()))
    torch.save({key: torch.from_numpy(value) for key, value in resnet_state.items()}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:100_000])
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("data.pkl", b"nothing")
    for name, message in (
        ("code.pth", "was refused: it holds code or objects"), ("plain.pth", "was refused|no whole torch file"),
        ("cut.pth", "no whole torch file|was refused"), ("list.pth", "no state dict"), ("zip.pth", "no whole|refused"),
    ):  # fmt: skip
        with pytest.raises(AuxjaxError, match=message) as error:
            read_tensors(tmp_path / name)
        assert "\n" not in str(error.value)
    assert not marker.exists()
    assert set(read_tensors(tmp_path / "whole.pth")) == {k for k in resnet_state if "num_batches" not in k}
