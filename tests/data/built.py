"""Data sets made up for the tests, written by TFDS without TensorFlow; and the config section that loads one."""

from __future__ import annotations

import collections
import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from auxjax import config as configs
from auxjax import data
from auxjax.data.sets import arrays
from auxjax.errors import AuxjaxError


def section(data_dir: Any, **changes: Any) -> dict[str, Any]:
    """The base config's data section, for a folder."""
    return configs.base().data.to_dict() | {"data_dir": str(data_dir)} | changes


def build(
    folder: Any,
    name: str,
    features: Mapping[str, Any],
    splits: Mapping[str, Iterable[Mapping[str, Any]]],
    version: str = "1.0.0",
) -> None:
    """Prepares a set of any features, as someone's own TFDS builder would."""
    import tensorflow_datasets as tfds

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(dict(features)))

    def split_generators(self: Any, _manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(examples) for split, examples in splits.items()}

    def generate(self: Any, examples: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        yield from enumerate(examples)

    members = {
        "name": name, "VERSION": tfds.core.Version(version), "_info": info, "_split_generators": split_generators,
        "_generate_examples": generate, "__module__": __name__,
    }  # fmt: skip
    kind: Any = type("Built", (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kind(data_dir=str(folder), file_format="array_record").download_and_prepare()


def image_features(height: int | None, width: int | None, classes: int = 4) -> dict[str, Any]:
    """PNG images and class labels, as most published sets have them; with None, of different sizes."""
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(height, width, 3), encoding_format="png")
    return {"image": image, "label": tfds.features.ClassLabel(num_classes=classes)}


def images(count: int, height: int, width: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random examples for `image_features`."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    return [{"image": Image.fromarray(p), "label": i % 4} for i, p in enumerate(pixels)]


def counted(images: np.ndarray, labels: np.ndarray) -> collections.Counter[Any]:
    """Examples without their order, which TFDS changes when it writes."""
    return collections.Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def loaded(folder: Any, name: str, split: str, **changes: Any) -> dict[str, np.ndarray]:
    return arrays(data.load(section(folder, name=name, **changes)), split)


def one_line(error: pytest.ExceptionInfo[AuxjaxError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)
