"""The small networks of the population benchmark in torch, each with its one head."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """Stages in a row; a linear head reads the stage of that number, by the mean over its pixels where it has any."""

    def __init__(self, stages: list[nn.Module], widths: list[int], tap: int) -> None:
        super().__init__()
        self.stages, self.tap = nn.ModuleList(stages), tap
        self.head, self.logits = nn.Linear(widths[tap], 10), nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        aux = x
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i == self.tap:
                aux = x
        main, aux = (y.mean((2, 3)) if y.ndim == 4 else y for y in (x, aux))
        return self.logits(main), self.head(aux)


def small_network(name: str) -> nn.Module:
    """Returns the network of that name: "mlp", "plainnet" or "cnn"."""
    if name == "cnn":
        sizes = [(1, 16), (16, 32)]
        stages = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in sizes]
        return Small([*stages], [16, 32], tap=0)
    depth, width, tap = (2, 256, 0) if name == "mlp" else (8, 128, 3)
    activation = nn.ReLU if name == "mlp" else nn.Sigmoid
    layers = [nn.Sequential(nn.Linear(784 if i == 0 else width, width), activation()) for i in range(depth)]
    layers[0] = nn.Sequential(nn.Flatten(), *layers[0])
    return Small([*layers], [width] * depth, tap)
