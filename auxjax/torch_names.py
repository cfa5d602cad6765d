"""Where torchvision keeps each array of a model and of its heads: names and layouts, one to one in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from auxjax.errors import AuxjaxError
from auxjax.models import FCN, VGG, AlexNet, DenseNet, GoogLeNet, InceptionV3, ResNet, ViT
from auxjax.models.vgg import TABLE_1 as VGG_TABLE

Rules = tuple[tuple[str, str], ...]


class Entry(NamedTuple):
    """One array: its path, torch's key (one a layer where layers are stacked), and the map that was flattened for it.

    `flattened` is (H, W) of the map that a dense layer reads flattened, in order H, W, C here and C, H, W in torch.
    """

    path: str
    keys: tuple[str, ...]
    flattened: tuple[int, int] | None
    stacked: bool

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of torch's tensors for an array of this shape."""
        shape = shape[1:] if self.stacked else shape
        if not self.path.endswith("/kernel"):
            return shape
        return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]

    def to_torch(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the array under torch's keys in torch's layout: OIHW kernels, [out, in] matrices."""
        values = value if self.stacked else value[None]
        return {key: _to_torch(part, self) for key, part in zip(self.keys, values, strict=True)}

    def from_torch(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the array from torch's; undoes `to_torch`."""
        parts = [_from_torch(values[key], self) for key in self.keys]
        return np.stack(parts) if self.stacked else parts[0]


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_GOOGLENET: Rules = (
    (r"^conv2/", "conv3/"), (r"^conv2_reduce/", "conv2/"), (r"^inception_(\w+)/", r"inception\1/"),
    ("branch_1x1", "branch1"), ("branch_3x3_reduce", "branch2/0"), ("branch_3x3", "branch2/1"),
    ("branch_5x5_reduce", "branch3/0"), ("branch_5x5", "branch3/1"), ("branch_pool_proj", "branch4/1"),
    (r"^logits", "fc"),
)  # fmt: skip
_ALEXNET: Rules = (
    *((f"^conv{i}/", f"features/{place}/") for i, place in enumerate((0, 3, 6, 8, 10), start=1)),
    *((f"^{name}/", f"classifier/{place}/") for name, place in (("fc6", 1), ("fc7", 4), ("fc8", 6))),
)
_RESNET: Rules = (
    (r"block_(\d+)", r"\1"), (r"downsample_conv", "downsample/0"), (r"downsample_bn", "downsample/1"),
)  # fmt: skip
_DENSENET: Rules = ((r"^(?!classifier)", "features/"),)
_VIT: Rules = (
    (r"^pos_embedding", "encoder/pos_embedding"), (r"^encoder_layer_", "encoder/layers/encoder_layer_"),
    (r"/mlp_1/", "/mlp/0/"), (r"/mlp_2/", "/mlp/3/"), (r"/in_proj/kernel", "/in_proj_weight"),
    (r"/in_proj/bias", "/in_proj_bias"), (r"^ln/", "encoder/ln/"), (r"^head/", "heads/head/"),
)  # fmt: skip
_FCN: Rules = (
    *_RESNET, (r"^classifier/conv/", "classifier/0/"), (r"^classifier/bn/", "classifier/1/"),
    (r"^classifier/logits/", "classifier/4/"),
)  # fmt: skip
_GOOGLENET_HEAD: Rules = ((r"^(conv|bn)/", r"conv/\1/"), ("dense", "fc1"), ("logits", "fc2"))
_HEAD_RULES: dict[str, Rules] = {
    "aux1": _GOOGLENET_HEAD,
    "aux2": _GOOGLENET_HEAD,
    "AuxLogits": ((r"^logits/", "fc/"),),
    "aux_classifier": ((r"^conv/", "0/"), (r"^bn/", "1/"), (r"^logits/", "4/")),
}
# By model and tap, torchvision's name of the head that reads it.
_HEADS: dict[tuple[type[nn.Module], str], str] = {
    (GoogLeNet, "inception_4a"): "aux1",
    (GoogLeNet, "inception_4d"): "aux2",
    (InceptionV3, "Mixed_6e"): "AuxLogits",
    (FCN, "backbone/layer3"): "aux_classifier",
}
# What reads a flattened map, and the height and width of that map.
_FLATTENED: dict[tuple[Any, str], tuple[int, int]] = {
    (AlexNet, "fc6"): (6, 6), (VGG, "fc6"): (7, 7), ("aux1", "dense"): (4, 4), ("aux2", "dense"): (4, 4),
}  # fmt: skip


def entries(model: nn.Module, variables: Any) -> list[Entry]:
    """Returns an entry for every array of a bare model's variables (arrays or shapes).

    Raises AuxjaxError for a model that torchvision does not have.
    """
    rules = _rules(model)
    found = []
    for path, leaf in _leaves(variables):
        inner = path.partition("/")[2]
        stacked = inner.startswith("encoder_layers/")
        layers = range(leaf.shape[0] if stacked else 1)
        keys = [_key(inner.replace("encoder_layers/", f"encoder_layer_{i}/"), rules, "") for i in layers]
        found.append(Entry(path, tuple(keys), _flattened(type(model), inner), stacked))
    return found


def head_entries(model: nn.Module, at: str, variables: Any) -> list[Entry]:
    """Returns an entry for every array of the head at tap `at`; none where torchvision has no head there."""
    name = _HEADS.get((type(model), at))
    if name is None:
        return []
    paths = [(path, path.partition("/")[2]) for path, _ in _leaves(variables)]
    return [
        Entry(path, (_key(inner, _HEAD_RULES[name], f"{name}."),), _flattened(name, inner), stacked=False)
        for path, inner in paths
    ]


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Returns torchvision's own names for the auxiliary heads of this model."""
    return tuple(name for (kind, _), name in _HEADS.items() if kind is type(model))


def _flattened(owner: Any, inner: str) -> tuple[int, int] | None:
    return _FLATTENED.get((owner, inner.split("/")[0])) if inner.endswith("/kernel") else None


def _rules(model: nn.Module) -> Rules:
    if isinstance(model, GoogLeNet | InceptionV3) and model.variant != "torchvision":
        raise AuxjaxError(
            f"torchvision's {type(model).__name__} is variant='torchvision', not variant={model.variant!r}"
        )
    stem = getattr(model, "stem", "imagenet")
    if stem != "imagenet":
        raise AuxjaxError(f"torchvision's {type(model).__name__} has stem='imagenet', not {stem!r}")
    if isinstance(model, VGG):
        return _vgg_rules(model)
    by_type: dict[type[nn.Module], Rules] = {
        GoogLeNet: _GOOGLENET, InceptionV3: (), AlexNet: _ALEXNET, ResNet: _RESNET, DenseNet: _DENSENET, ViT: _VIT,
        FCN: _FCN,
    }  # fmt: skip
    if type(model) not in by_type:
        known = ", ".join(sorted(kind.__name__ for kind in (*by_type, VGG)))
        raise AuxjaxError(f"torchvision has no {type(model).__name__} of this form; it has: {known}")
    return by_type[type(model)]


def _vgg_rules(model: VGG) -> Rules:
    place, rules = 0, []
    for i, count in enumerate(VGG_TABLE[model.depth], start=1):
        for j in range(1, count + 1):
            rules += [(f"^conv{i}_{j}/conv/", f"features/{place}/"), (f"^conv{i}_{j}/bn/", f"features/{place + 1}/")]
            place += 3 if model.batch_norm else 2
        place += 1  # the pool
    return (*rules, *((f"^fc{n}/", f"classifier/{p}/") for n, p in ((6, 0), (7, 3), (8, 6))))


def _key(inner: str, rules: Rules, prefix: str) -> str:
    for pattern, replacement in rules:
        inner = re.sub(pattern, replacement, inner)
    *modules, leaf = inner.split("/")
    return prefix + ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _leaves(variables: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(variables)[0]
    return [("/".join(str(key.key) for key in path), leaf) for path, leaf in found]


def _to_torch(value: np.ndarray, entry: Entry) -> np.ndarray:
    if entry.flattened is not None:
        height, width = entry.flattened
        value = value.reshape(height, width, -1, value.shape[-1]).transpose(2, 0, 1, 3).reshape(value.shape)
    if not entry.path.endswith("/kernel"):
        return value
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)


def _from_torch(value: np.ndarray, entry: Entry) -> np.ndarray:
    if entry.path.endswith("/kernel"):
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    if entry.flattened is not None:
        height, width = entry.flattened
        value = value.reshape(-1, height, width, value.shape[-1]).transpose(1, 2, 0, 3).reshape(value.shape)
    return np.ascontiguousarray(value)
