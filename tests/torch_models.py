"""torchvision's modules as oracles: the import on a CPU torch, and random weights with random running statistics."""

from __future__ import annotations

import sys
from typing import Any

import pytest


def import_torchvision() -> Any:
    """Returns torchvision, or skips the test; a CPU torch may lack its compiled operators, which no model needs."""
    torch = pytest.importorskip("torch")
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    except ImportError:
        pytest.skip("torchvision is not installed")
    return torchvision


def randomise(module: Any, seed: int = 0) -> Any:
    """Gives every BatchNorm random weights and running statistics; returns the module in eval mode."""
    import torch

    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            ranges: Any = (
                (part.weight, 0.7, 1.6), (part.bias, -0.3, 0.5), (part.running_mean, -0.2, 0.2),
                (part.running_var, 0.2, 0.8),
            )  # fmt: skip
            for tensor, low, high in ranges:
                torch.nn.init.uniform_(tensor, low, high)
    return module.eval()
