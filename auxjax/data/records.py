"""A split as it lies on disk: random access, every example checked where it enters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from auxjax.errors import AuxjaxError


class Records(Sequence[Any]):
    """A split as it lies on disk: `{"image": uint8[H, W, C], "label": int32}` by position, each checked when read.

    `image_shape` is what the set declares, with None for a height and width that differ between images.
    """

    def __init__(self, name: str, source: Any, image_shape: tuple[Any, ...], num_classes: int) -> None:
        self.name, self.source, self.image_shape, self.num_classes = name, source, image_shape, num_classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        position = range(len(self))[index]
        with self._damage_in_one_line():
            example = self.source[position]
        return self._checked(example)

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Returns several at once, which array records read faster than one by one (and one alone slower)."""
        with self._damage_in_one_line():
            examples = self.source.__getitems__([int(i) for i in indices])
        return [self._checked(example) for example in examples]

    @contextlib.contextmanager
    def _damage_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # array records have checksums
            raise AuxjaxError(
                f"data set {self.name!r} is damaged ({one_line(error)}): remove it, then prepare it"
            ) from None

    def _checked(self, example: Mapping[str, Any]) -> dict[str, Any]:
        image, label = np.asarray(example["image"]), int(example["label"])
        if not _fits(image.shape, self.image_shape) or not 0 <= label < self.num_classes:
            raise AuxjaxError(
                f"an example of {self.name!r} has image {list(image.shape)} and label {label}; "
                f"the set declares {list(self.image_shape)} and labels 0 to {self.num_classes - 1}"
            )
        return {"image": image, "label": np.int32(label)}


class Subset(Sequence[Any]):
    """The examples of a split at given positions."""

    def __init__(self, source: Records, indices: np.ndarray) -> None:
        self.source, self.indices, self.image_shape = source, indices, source.image_shape

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Returns several at once."""
        return self.source.__getitems__(self.indices[np.asarray(indices)])


def resize(
    image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Returns uint8[size[0], size[1], C], the image or its box (left, upper, right, lower) resized bilinearly."""
    if box is None and image.shape[:2] == size:
        return image
    from PIL import Image

    planes = [image] if image.shape[-1] == 3 else [image[..., c] for c in range(image.shape[-1])]
    resized = [Image.fromarray(p).resize(size[::-1], Image.Resampling.BILINEAR, box=box) for p in planes]
    return np.asarray(resized[0]) if image.shape[-1] == 3 else np.stack([np.asarray(p) for p in resized], axis=-1)


def one_line(what: object) -> str:
    """Returns a message of several lines on one."""
    return " ".join(str(what).split())


def _fits(shape: tuple[int, ...], declared: tuple[Any, ...]) -> bool:
    return len(shape) == len(declared) and all(d in (None, s) for s, d in zip(shape, declared, strict=True))
