"""From a run to a folder: what is in it, that it loads strictly, and that nothing of anybody else's is overwritten."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import auxjax
from auxjax import config as configs
from auxjax.errors import AuxjaxError
from auxjax.export import bare_network, export_run, load_folder, stablehlo
from auxjax.export import run as export_module
from auxjax.export.tensors import save_tree

pytest.importorskip("safetensors")
pytest.importorskip("flatbuffers")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def workdir(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 2, "width": 16, "norm": "batch"}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.data.update(data_dir=data_dir, batch_size=64, eval_batch_size=355)
    made.train.update(total_epochs=0.0, total_steps=2, eval_epochs=0.0, eval_steps=2)
    folder = tmp_path_factory.mktemp("run")
    auxjax.train(made, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def exported(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "net"
    files = export_run(workdir, folder, ["safetensors", "stablehlo"], fold=True)
    assert [file.name for file in files] == ["README.md", "config.json", "model.safetensors", "model.stablehlo"]
    return folder


def rewrite(exported: Path, folder: Path, change: Any) -> Path:
    """A copy of an export, its variables changed in place."""
    folder.mkdir()
    (folder / "config.json").write_bytes((exported / "config.json").read_bytes())
    _, _, variables = load_folder(exported)
    change(variables)
    save_tree(folder / "model.safetensors", variables, {})
    return folder


def test_the_folder_loads_as_the_runs_own_network(workdir: Path, exported: Path) -> None:
    _, model, variables = auxjax.load(workdir)
    config, loaded_model, loaded = load_folder(exported)
    assert loaded_model == model
    jax.tree.map(np.testing.assert_array_equal, loaded, jax.device_get(variables))
    assert not any("heads" in str(path) for path, _ in jax.tree_util.tree_flatten_with_path(loaded)[0])
    assert config["image_shape"] == [8, 8, 1] and config["mean"] == [0.305] and config["dataset"] == "digits"


def test_the_stablehlo_file_is_the_folded_network(workdir: Path, exported: Path) -> None:
    _, model, variables = auxjax.load(workdir)
    network = bare_network(model, variables, (8, 8, 1))
    for x, expected in network.examples:
        np.testing.assert_allclose(stablehlo._run(exported / "model.stablehlo", x), expected, atol=1e-4)
    program = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert "rsqrt" not in str(program.mlir_module())


def test_the_card_tells_what_it_is(workdir: Path, exported: Path) -> None:
    text = (exported / "README.md").read_text()
    front, body = text.split("---\n")[1:3]
    assert "library_name: auxjax" in front and "- digits" in front
    accuracy = json.loads((workdir / "DONE").read_text())["accuracy/main"]
    assert f"| accuracy/main (test, step 2) | {accuracy:.4f} |" in body and "(train" not in body
    assert "aux1 (at layer_1), which are not in these files" in body and '"model.width": 16' in body
    assert "In `model.stablehlo` BatchNorm is folded" in body


def test_the_card_tells_no_folder_of_the_machine(workdir: Path, exported: Path) -> None:
    config, _, _ = auxjax.load(workdir)
    assert config.data.data_dir and config.data.data_dir not in (exported / "README.md").read_text()
    started = configs.from_json(configs.to_json(config)).unlock()
    started.pretrained.path = "/home/somebody/weights/resnet18.pth"
    assert export_module._overrides(started)["pretrained.path"] == "resnet18.pth"


def test_the_cards_code_gives_the_runs_logits_and_stablehlo_does_without_auxjax_and_flax(
    workdir: Path, exported: Path
) -> None:
    normalise, with_auxjax, with_jax = re.findall(
        r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL
    )
    images = "import numpy as np\nimages = np.arange(192, dtype=np.uint8).reshape(3, 8, 8, 1)\n"
    alone = "import sys\nsys.modules['auxjax'] = sys.modules['flax'] = None\n"
    show = "print(np.asarray(logits).tolist())\n"
    logits = []
    for program in (images + normalise + with_auxjax + show, alone + images + normalise + with_jax + show):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=exported, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        logits.append(np.array(json.loads(done.stdout)))
    _, model, variables = auxjax.load(workdir)
    pixels = np.arange(192, dtype=np.float32).reshape(3, 8, 8, 1)
    expected: Any = model.apply(variables, (pixels / 255 - 0.305) / 0.376, train=False)
    for actual in logits:
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def _extra(variables: Any) -> None:
    variables["params"]["aux1"] = {"kernel": np.zeros((2, 2), np.float32)}


def _missing(variables: Any) -> None:
    del variables["params"]["layer_1"]


def _reshaped(variables: Any) -> None:
    variables["params"]["logits"]["kernel"] = np.zeros((16, 11), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_extra, r"params/aux1/kernel is float32\[2, 2\], expected absent"),
        (_missing, r"params/layer_1/.* is absent, expected float32"),
        (_reshaped, r"params/logits/kernel is float32\[16, 11\], expected float32\[16, 10\]"),
    ],
)
def test_an_array_that_differs_is_named(change: Any, message: str, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(AuxjaxError, match=message):
        load_folder(rewrite(exported, tmp_path / "copy", change))


def test_a_folder_that_is_damaged_is_one_line(exported: Path, tmp_path: Path) -> None:
    folder = rewrite(exported, tmp_path / "copy", lambda variables: None)
    config = json.loads((folder / "config.json").read_text())
    damage: dict[str, str] = {
        json.dumps(config)[:-5]: "is no JSON", "[]": "not of auxjax's export format",
        json.dumps(config | {"format_version": 2}): "not of auxjax's export format",
        json.dumps({k: v for k, v in config.items() if k != "mean"}): "lost its keys mean",
        json.dumps(config | {"image_shape": [8, 8]}): r"image_shape=\[8, 8\]",
        json.dumps(config | {"image_shape": [2**40, 8, 1]}): r"image_shape=\[1099511627776, 8, 1\]",
        json.dumps(config | {"model": {"name": "plainet"}}): "unknown model 'plainet'; did you mean 'plainnet'",
        json.dumps(config | {"model": config["model"] | {"widht": 3}}): "unknown key 'widht'",
    }  # fmt: skip
    for text, message in damage.items():
        (folder / "config.json").write_text(text)
        with pytest.raises(AuxjaxError, match=message):
            load_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(AuxjaxError, match=r"there is no config\.json"):
        load_folder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(AuxjaxError, match=r"has no model\.safetensors"):
        load_folder(folder)


def test_only_an_export_is_replaced_and_a_failure_leaves_nothing(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net"
    target.mkdir()
    export_run(workdir, target, ["safetensors"])
    export_run(workdir, target, ["stablehlo"])
    assert not (target / "model.safetensors").exists() and (target / "model.stablehlo").exists()
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    monkeypatch.setattr(stablehlo, "_run", lambda path, x: np.zeros((len(x), 10)))
    with pytest.raises(AuxjaxError, match=r"model\.stablehlo differs from the network"):
        export_run(workdir, target, ["safetensors", "stablehlo"])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    (target / "notes.txt").write_text("mine")
    with pytest.raises(AuxjaxError, match=r"holds 'notes\.txt'"):
        export_run(workdir, target, ["safetensors"])
    with pytest.raises(AuxjaxError, match="is a file"):
        export_run(workdir, target / "notes.txt", ["safetensors"])
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(AuxjaxError, match="not of auxjax's export format"):
        export_run(workdir, other, ["safetensors"])
    assert {path.name for path in tmp_path.iterdir()} == {"net", "run"}


def test_formats_and_packages_are_checked_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuxjaxError, match="unknown format 'onxx'; did you mean 'onnx'"):
        export_run("nowhere", tmp_path / "x", ["safetensors", "onxx"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax2onnx" else find(name))
    with pytest.raises(AuxjaxError, match=r"'jax2onnx' is missing: pip install 'auxjax\[onnx\]'"):
        export_run("nowhere", tmp_path / "x", ["safetensors", "onnx"])
    with pytest.raises(AuxjaxError, match="no run in"):
        export_run(tmp_path / "nowhere", tmp_path / "x", ["safetensors"])
    assert not list(tmp_path.iterdir())


def test_the_entry_point_exits_with_2_and_one_line(workdir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "experiments/export.py", f"--workdir={workdir}", f"--output={tmp_path / 'x'}"]
    result = subprocess.run([*command, "--formats=torchvision"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: torchvision has no PlainNet") and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
