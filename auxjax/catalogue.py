"""The page of models and heads: every network, its parameters, and the heads that it was published with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from auxjax.attach import attach
from auxjax.errors import AuxjaxError
from auxjax.heads import PRESETS, cost, presets
from auxjax.models import MODELS
from auxjax.torch_names import entries

# By title: the model's name, its fields, the input's size and the number of classes as published, and its presets.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, tuple[str, ...]]] = {
    "GoogLeNet": ("googlenet", {}, 224, 1000, ("googlenet",)),
    "GoogLeNet, torchvision's": ("googlenet", {"variant": "torchvision"}, 224, 1000, ("googlenet_torchvision",)),
    "BN-Inception (v2)": ("bn_inception", {}, 224, 1000, ()),
    "Inception v3": ("inception_v3", {}, 299, 1000, ("inception_v3",)),
    "Inception v3, torchvision's": ("inception_v3", {"variant": "torchvision"}, 299, 1000, ("inception_v3",)),
    "Inception v4": ("inception_v4", {}, 299, 1000, ("inception_v4",)),
    "Inception-ResNet v2": ("inception_resnet_v2", {}, 299, 1000, ("inception_resnet_v2",)),
    "NASNet-A mobile": ("nasnet_a", {"variant": "mobile"}, 224, 1000, ("nasnet_mobile",)),
    "NASNet-A large": ("nasnet_a", {"variant": "large"}, 331, 1000, ("nasnet_large",)),
    "NASNet-A CIFAR": ("nasnet_a", {"variant": "cifar"}, 32, 10, ("nasnet_cifar",)),
    "DARTS CIFAR": ("darts", {"variant": "cifar"}, 32, 10, ("darts_cifar",)),
    "DARTS ImageNet": ("darts", {"variant": "imagenet"}, 224, 1000, ("darts_imagenet",)),
    "DSN": ("dsn", {}, 32, 10, ("dsn",)),
    "AlexNet": ("alexnet", {}, 224, 1000, ()),
    **{f"VGG-{depth}": ("vgg", {"depth": depth}, 224, 1000, ()) for depth in (11, 16, 19)},
    **{f"VGG-{d} with BatchNorm": ("vgg", {"depth": d, "batch_norm": True}, 224, 1000, ()) for d in (11, 16, 19)},
    **{f"ResNet-{depth} (v1.5)": ("resnet", {"depth": depth}, 224, 1000, ()) for depth in (18, 34, 50, 101, 152)},
    **{
        f"CIFAR ResNet-{depth}": ("cifar_resnet", {"depth": depth}, 32, 10, ("sdn_resnet56",) if depth == 56 else ())
        for depth in (20, 56, 110)
    },
    "DenseNet-121": ("densenet", {"depth": 121}, 224, 1000, ()),
    "ViT-S/16": ("vit", {"variant": "S"}, 224, 1000, ()),
    "ViT-B/16": ("vit", {"variant": "B"}, 224, 1000, ()),
    "FCN on ResNet-50": ("fcn", {}, 224, 21, ("fcn",)),
    "PSPNet on ResNet-50": ("pspnet", {}, 224, 150, ("pspnet",)),
    "U-Net, 8 stages": ("unet", {"stages": 8}, 256, 2, ("nnunet", "monai_exp", "monai_same")),
    "PlainNet": ("plainnet", {}, 28, 10, ()),
}


def table() -> str:
    """Returns the page as a Markdown table; counts come from shapes alone, and nothing is computed."""
    lines = [
        "| network | `config.model` | parameters | preset of heads: tap (weight) | with heads |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(row, NETWORKS)])


def row(title: str) -> str:
    """Returns the table's line for one of NETWORKS."""
    name, fields, size, num_classes, names = NETWORKS[title]
    model = MODELS[name](num_classes=num_classes, **fields)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), key, image)
    total = _count(variables["params"])
    cells = [title + (" †" if _in_torchvision(model, variables) else ""), _fields(name, fields), f"{total:,}"]
    heads = [_heads(model, variables, preset, image) for preset in names]
    cells += ["<br>".join(map(_preset, names)), "<br>".join(f"{total + count:,}" for count in heads)]
    return f"| {' | '.join(cells)} |"


def _fields(name: str, fields: Mapping[str, Any]) -> str:
    return ", ".join([f"`{name}`", *(f"{key}={value}" for key, value in fields.items())])


def _preset(name: str) -> str:
    """Returns a preset's taps with their weights; where many have the same kind of tap, the first and the last."""
    parts = [f"{head.at} ({_weight(head.weight)})" for head in PRESETS[name].heads.values()]
    return f"`{name}`: " + (", ".join(parts) if len(parts) < 4 else f"{parts[0]} ... {parts[-1]}, {len(parts)} heads")


def _weight(weight: Any) -> str:
    return str(weight["name"]) if isinstance(weight, Mapping) else f"{weight:g}"


def _heads(model: Any, variables: Any, preset: str, image: Any) -> int:
    """Returns the number of a preset's parameters."""
    attached = attach(model, presets(preset, model.num_classes))
    shapes = attached.tap_shapes(variables, image)
    return sum(int(cost(attached.heads[name].module, shape)["params"]) for name, shape in shapes.items())


def _in_torchvision(model: Any, variables: Any) -> bool:
    try:
        return bool(entries(model, variables))
    except AuxjaxError:
        return False


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
