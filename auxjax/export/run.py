"""From a run's folder to the folder that is shipped, in the formats asked for, each one checked."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from auxjax import checkpoint, metrics, run, storage
from auxjax.errors import AuxjaxError, missing_extra, unknown
from auxjax.export.card import card
from auxjax.export.folder import CARD, CONFIG, TENSORS, check_target, describe, new_folder
from auxjax.export.folding import fold as fold_network
from auxjax.export.network import bare_network, count
from auxjax.export.stablehlo import write_stablehlo
from auxjax.export.state_dict import state_dict, write_torchvision
from auxjax.export.tensors import write_tensors
from auxjax.export.to_onnx import PACKAGES, check_onnx, write_onnx
from auxjax.storage import PathLike
from auxjax.train import load

# By format, the extra that has its packages, and the packages.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "safetensors": ("export", ("safetensors",)),
    "stablehlo": ("export", ("flatbuffers",)),
    "onnx": ("onnx", PACKAGES),
    "torchvision": ("export", ("safetensors",)),
}


def export_run(
    workdir: PathLike, output: str | Path, formats: Collection[str], *, fold: bool = False, step: int | str = "last"
) -> list[Path]:
    """Writes a run's stripped network into the folder `output` and returns its files, each shown to be the network.

    With `fold`, BatchNorm is folded in the formats that hold a program, stablehlo and onnx; the others hold the arrays
    as they were trained. Raises AuxjaxError, before anything is written, for an unknown format, a missing package,
    a folder of something else, a run or step that is not there, and a model that a format cannot take.
    """
    check_formats(formats)
    target = storage.local_place(output)
    check_target(target)
    config, model, variables = load(workdir, step)
    folder = storage.place(workdir)
    dataset = run.read_dataset(folder)
    net = bare_network(model, variables, tuple(dataset["image_shape"]))
    if "onnx" in formats:
        check_onnx(net)
    if "torchvision" in formats:
        state_dict(net)
    program = fold_network(net) if fold else net
    description = describe(config, dataset)
    with new_folder(target) as temporary:
        storage.write_json(temporary / CONFIG, description)
        if "safetensors" in formats:
            write_tensors(temporary / TENSORS, net, {"config": json.dumps(description)})
        if "stablehlo" in formats:
            write_stablehlo(temporary / "model.stablehlo", program)
        if "onnx" in formats:
            write_onnx(temporary / "model.onnx", program)
        if "torchvision" in formats:
            write_torchvision(temporary / f"{config['model']['name']}_torchvision.safetensors", net)
        kinds = tuple(name for name in FORMATS if name in formats)
        scores = _scores(folder, step)
        text = card(
            description, config["heads"], _overrides(config), scores, kinds, count(net.variables),
            folded=fold and "batch_stats" in net.variables,
        )  # fmt: skip
        (temporary / CARD).write_text(text)
    return sorted(target.iterdir())


def check_formats(formats: Collection[str]) -> None:
    """Raises AuxjaxError for no format, an unknown one, and one whose package is missing."""
    if not formats:
        raise AuxjaxError(f"no format: give some of {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    for name in formats:
        extra, packages = FORMATS[name]
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise missing_extra(package, extra)


def _overrides(config: Any) -> dict[str, Any]:
    """Returns what is not as in the base config, without the folders of the machine that it ran on."""
    given = {key: value for key, value in run.overrides(config).items() if key != "data.data_dir"}
    return {key: Path(value).name if key == "pretrained.path" else value for key, value in given.items()}


def _scores(folder: storage.Folder, step: int | str) -> dict[str, float]:
    """Returns main's recorded evaluation at the step that is exported, by split; empty where there was none."""
    number = checkpoint.find_step(folder, step)
    records: list[dict[str, Any]] = metrics.read(folder / "metrics.jsonl")
    return {
        f"{key} ({record['split']}, step {number})": value
        for record in records
        if record["step"] == number and record["split"] != "train"
        for key, value in record.items()
        if key.endswith("/main")
    }
