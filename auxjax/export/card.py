"""The model card: what the network is, how it was trained, how well it does, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_HOW_TO_LOAD = {
    "safetensors": """\
`model.safetensors`, with auxjax:

```python
from auxjax.export import load_folder

config, model, variables = load_folder(".")
logits = model.apply(variables, x, train=False)
```
""",
    "stablehlo": """\
`model.stablehlo`, with jax alone, on a CPU, a GPU or a TPU:

```python
import jax

logits = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call(x)
```
""",
    "onnx": """\
`model.onnx`, with onnxruntime:

```python
import onnxruntime

(logits,) = onnxruntime.InferenceSession("model.onnx").run(["logits"], {"image": x})
```
""",
    "torchvision": """\
`NAME_torchvision.safetensors`, with torchvision; `model` is its network of the same name and `num_classes=CLASSES`,
without auxiliary heads, its first convolution for CHANNELS input channels:

```python
import safetensors.torch
import torch

model.load_state_dict(safetensors.torch.load_file("NAME_torchvision.safetensors"))
logits = model.eval()(torch.from_numpy(x).permute(0, 3, 1, 2))
```
""",
}

_CARD = """\
---
library_name: auxjax
pipeline_tag: image-classification
tags:
- jax
- flax
- {name}
datasets:
- {dataset}
---

# {name} on {dataset}

An image classifier: {shape} pixels to {classes} logits, {numbers:,} parameters and statistics.
{trained} are not in these files.

## How well it does

{table}

## How to load it

In this folder, `images` being NumPy's [B, H, W, C] from 0 to 255:

```python
x = ((images / 255 - {mean}) / {std}).astype("float32")
```

{loads}{folded}
## How it was trained

By auxjax {version}; what differs from its defaults:

```json
{overrides}
```
"""


def card(
    description: Mapping[str, Any], heads: Mapping[str, Any], overrides: Mapping[str, Any],
    metrics: Mapping[str, float], formats: tuple[str, ...], numbers: int, *, folded: bool,
) -> str:  # fmt: skip
    """Returns README.md, with the front matter that model hubs read.

    `description` is config.json's content, `heads` the config's, `overrides` what is not as in the base config,
    `metrics` main's by name, empty where they were not measured at this step, `numbers` the count of parameters and
    statistics, `folded` whether BatchNorm is folded in the formats that hold a program.
    """
    name = description["model"]["name"]
    shape, classes = " x ".join(map(str, description["image_shape"])), description["num_classes"]
    taps = ", ".join(f"{head} (at {entry['at']})" for head, entry in heads.items())
    trained = f"It was trained with the auxiliary heads {taps}, which" if taps else "Auxiliary heads"
    rows = [f"| {key} | {value:.4f} |" for key, value in metrics.items()]
    table = (
        "\n".join(["| metric | value |", "| --- | --- |", *rows]) if rows else "No metrics were recorded at this step."
    )
    places = {"NAME": name, "CLASSES": str(classes), "CHANNELS": str(description["image_shape"][-1])}
    loads = "\n".join(_HOW_TO_LOAD[kind] for kind in formats)
    for place, value in places.items():
        loads = loads.replace(place, value)
    programs = " and ".join(f"`model.{kind}`" for kind in formats if kind in ("stablehlo", "onnx"))
    return _CARD.format(
        name=name, dataset=description["dataset"], shape=shape, classes=classes, numbers=numbers, trained=trained,
        mean=description["mean"], std=description["std"], table=table, loads=loads,
        version=description["auxjax_version"], overrides=json.dumps(overrides, indent=1, sort_keys=True),
        folded=f"\nIn {programs} BatchNorm is folded into the layers before it.\n" if folded and programs else "",
    )  # fmt: skip
