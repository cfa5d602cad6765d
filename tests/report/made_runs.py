"""Folders of runs as training leaves them, made of formulas in milliseconds: no network is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auxjax import config as configs

LAYERS = ("layer_1", "layer_2", "layer_3", "layer_4")
DATASET = {"name": "digits", "num_classes": 10, "image_shape": [8, 8, 1], "mean": [0.305], "std": [0.376]}


def make_config(heads: Mapping[str, tuple[str, float]], seed: int, **changes: Any) -> dict[str, Any]:
    """A resolved config of a PlainNet with `{name: (tap, weight)}`; `changes` are by dotted key, `__` for the dot."""
    config = configs.base()
    config.model = {"name": "plainnet", "width": 16, "depth": 5, "activation": "sigmoid"}
    config.heads = {name: configs.head(at=at, kind="linear", weight=weight) for name, (at, weight) in heads.items()}
    config.seed = seed
    config.data.batch_size = 64
    config.train.update(total_epochs=0.0, total_steps=600)
    with config.unlocked():
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    made: dict[str, Any] = config.to_dict()
    return made


def make_run(
    folder: Path,
    heads: Mapping[str, tuple[str, float]],
    seed: int,
    final: float,
    *,
    speed: float = 1.0,
    points: int = 30,
    total: int = 600,
    split: str = "test",
    stop: int | None = None,
    diagnostics: bool = False,
    rate: float = 100.0,
    **changes: Any,
) -> Path:
    """Writes a run whose test accuracy rises to exactly `final`, earlier the greater `speed`; until step `stop`.

    With split="validation" the curve is of that split, and test is evaluated at the end alone.
    """
    folder.mkdir(parents=True)
    config = make_config(heads, seed, **changes)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "overrides.json").write_text(json.dumps({"seed": seed, "model.width": 16}))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    random = np.random.default_rng([seed, len(folder.name), int(1000 * final)])
    records = []
    for step in np.linspace(0, total, points + 1)[1:].round().astype(int).tolist():
        if stop is not None and step > stop:
            break
        shown = 0.1 + (final - 0.1) * (1 - np.exp(-5 * speed * step / total)) / (1 - np.exp(-5 * speed))
        last = step == total
        noise = 0.0 if last else float(random.normal(0, 0.004))
        losses = {"loss/main": 2.3 * (1 - shown) + 0.05, **{f"loss/{name}": 2.4 * (1 - shown) + 0.2 for name in heads}}
        weights = {f"weight/{name}": weight * (1 - step / total) for name, (_, weight) in heads.items()}
        records.append({"step": step, "split": "train", **losses, **weights, "steps_per_second": rate + seed})
        scores = {"accuracy/main": shown + noise, **losses}
        scores |= {f"accuracy/{name}": shown * 0.7 + 0.03 * i for i, name in enumerate(heads)}
        records.append({"step": step, "split": split, **scores})
        if last and split != "test":
            records.append({"step": step, "split": "test", **scores})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if diagnostics:
        write_diagnostics(folder, tuple(heads), total, random)
    if stop is None:
        done = {key: value for key, value in records[-1].items() if key != "split"}
        (folder / "DONE").write_text(json.dumps(done))
    return folder


def make_two_arms(folder: Path) -> Path:
    """Writes five seeds without heads and with one, which is 1 to 5 points better, sooner there, at 80 % of the speed.

    They are evaluated every 100 steps up to 400; accuracy on training batches is 90 % throughout.
    """
    for seed in range(5):
        plain = make_run(folder / f"plain{seed}", {}, seed, 0.8, points=2)
        write_curve(plain, [0.5, 0.6, 0.7, 0.80], trained=0.9, steps_per_second=100.0)
        arm = make_run(folder / f"heads{seed}", {"aux1": ("layer_1", 0.3)}, seed, 0.8, points=2)
        write_curve(arm, [0.6, 0.7, 0.75, 0.81 + seed / 100], trained=0.9, steps_per_second=80.0)
    return folder


def make_ablation(folder: Path, weights: Sequence[float] = (0.1, 0.3), seeds: int = 5, **options: Any) -> Path:
    """Writes an ablation: a run without heads, and a head of each weight on layer_1 and on layer_3, for every seed.

    Deeper heads and larger weights give 2 and 1 points more, every seed half a point more than the one before.
    """
    for seed in range(seeds):
        make_run(folder / "runs" / f"plain,seed={seed}", {}, seed, 0.80 + 0.005 * seed, **options)
        for at, gain in (("layer_1", 0.0), ("layer_3", 0.02)):
            for number, weight in enumerate(weights):
                final = 0.80 + 0.005 * seed + gain + 0.01 * number + 0.001 * ((seed * 7 + number) % 3)
                name = f"heads.aux1.at={at},heads.aux1.weight={weight},seed={seed}"
                heads = {"aux1": (at, weight)}
                make_run(folder / "runs" / name, heads, seed, final, speed=1 + number, rate=90.0, **options)
    axes = {"heads.aux1.at": ["layer_1", "layer_3"], "heads.aux1.weight": list(weights)}
    ablation: dict[str, Any] = {
        "name": "weight by position",
        "axes": axes,
        "baseline": None,
        "metric": "accuracy/main",
        "arms": [],
    }
    (folder / "ablation.json").write_text(json.dumps(ablation))
    return folder


def write_curve(
    folder: Path, values: list[float], every: int = 100, trained: float | None = None, **extra: Any
) -> None:
    """Replaces what a made run recorded by these test accuracies, that on training batches and what else these have."""
    lines: list[dict[str, Any]] = []
    extra |= {} if trained is None else {"accuracy/main": trained}
    for number, value in enumerate(values, start=1):
        step = number * every
        lines += [
            {"step": step, "split": "train", "loss/main": 1.0, **extra},
            {"step": step, "split": "test", "accuracy/main": value},
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "DONE").write_text(
        json.dumps({"step": len(values) * every, "accuracy/main": values[-1], "loss/main": 1.0})
    )


def write_diagnostics(folder: Path, heads: Sequence[str], total: int, random: np.random.Generator) -> None:
    """Writes a record of every diagnostic at the first, the middle and the last step."""
    losses, count, layers = ["main", *heads], len(heads) + 1, len(LAYERS)
    records: list[dict[str, Any]] = []
    for step in (1, total // 2, total):
        depth = np.arange(layers)
        norm = np.exp(-(layers - depth) * (1.5 - step / total))[None] * random.uniform(0.5, 1.5, (count, layers))
        cosine = np.clip(random.normal(0.3, 0.3, (layers + 1, count, count)), -1, 1)
        cosine = (cosine + cosine.transpose(0, 2, 1)) / 2
        cosine[:, np.arange(count), np.arange(count)] = 1
        path = np.linspace(-1, 1, 21)
        records += [
            {"diagnostic": "gradient_norm", "layers": LAYERS, "losses": [*losses, "total"],
             "norm": np.concatenate([norm, norm.sum(0, keepdims=True)]).tolist()},
            {"diagnostic": "similarity", "layers": [*LAYERS, "all"], "losses": losses, "cosine": cosine.tolist(),
             "magnitude": np.abs(cosine).tolist(), "conflict": (cosine[:-1] < 0).mean(0).tolist()},
            {"diagnostic": "variance", "losses": [*losses, "total"], "trace": [2.0] * (count + 1),
             "norm_squared": [0.1] * (count + 1), "noise_scale": [20.0 + step / 10] * (count + 1)},
            {"diagnostic": "paired_variance", "losses": ["main", "total"], "trace": [2.0, 3.0],
             "ratio": {name: {"value": 0.7 + 0.1 * i, "low": 0.6, "high": 1.0 + 0.1 * i}
                       for i, name in enumerate(("trace", "noise_to_signal", "equal_norm"))}},
            {"diagnostic": "hessian", "loss": "total", "eigenvalues": [5.0 + step / 100, 2.0], "trace": 30.0,
             "trace_error": 1.0, "density": {"x": path.tolist(), "y": np.exp(-8 * path**2).tolist()}},
            {"diagnostic": "ntk", "loss": "main", "alignment": 0.2 + step / total / 2, "spectrum": [9.0, 3.0, 1.0, 0.2],
             "between": dict.fromkeys(heads, 0.5)},
            {"diagnostic": "probes", "layers": LAYERS, "accuracy": (0.4 + 0.1 * depth + step / total / 20).tolist()},
            {"diagnostic": "exits", "heads": [*heads, "main"], "accuracy": [0.6] * len(heads) + [0.8]},
            {"diagnostic": "cka", "layers": LAYERS, "cka": (np.exp(-abs(depth[:, None] - depth[None]) / 2)).tolist()},
            {"diagnostic": "landscape", "x": path.tolist(), "y": None, "loss": (path**2 + 0.1).tolist()},
        ]  # fmt: skip
        for record in records:
            record.setdefault("step", step)
    (folder / "diagnostics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
