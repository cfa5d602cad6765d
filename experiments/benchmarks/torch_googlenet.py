"""torchvision's GoogLeNet trained as the step trains ours, to compare with; needs torch and torchvision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch

with contextlib.suppress(RuntimeError):
    # A CPU build of torch lacks torchvision's compiled operators, which GoogLeNet does not use; import needs the names.
    _library = torch.library.Library("torchvision", "DEF")
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.models import googlenet


def training_steps(batch: int, size: int, classes: int) -> dict[str, Callable[[], object]]:
    """Returns a training step (three losses, SGD with momentum): default layout, channels_last, compiled."""
    return {
        "torch": _step(batch, size, classes, channels_last=False, compiled=False),
        "torch channels_last": _step(batch, size, classes, channels_last=True, compiled=False),
        "torch.compile": _step(batch, size, classes, channels_last=True, compiled=True),
    }


def _step(batch: int, size: int, classes: int, channels_last: bool, compiled: bool) -> Callable[[], object]:
    model = googlenet(weights=None, num_classes=classes, aux_logits=True, init_weights=False).train()
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % classes
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    forward = torch.compile(model) if compiled else model
    loss_function = torch.nn.CrossEntropyLoss()

    def run() -> None:
        main, aux2, aux1 = forward(images)
        loss = loss_function(main, labels) + 0.3 * (loss_function(aux1, labels) + loss_function(aux2, labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def pcgrad_steps(batch: int, size: int, classes: int) -> dict[str, Callable[[], object]]:
    """Returns a step with TorchJD's PCGrad over the parameters up to inception 4a, and the plain step.

    One retained backward pass a loss, one after another; all other parameters get the gradient of the weighted sum.
    """
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import backward, jac_to_grad

    model = googlenet(weights=None, num_classes=classes, aux_logits=True, init_weights=False).train()
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % classes
    model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss_function, aggregator = torch.nn.CrossEntropyLoss(), PCGrad()
    first = ("conv1", "conv2", "conv3", "inception3a", "inception3b", "inception4a")
    trunk = [p for name, p in model.named_parameters() if name.split(".")[0] in first]
    rest = [p for name, p in model.named_parameters() if name.split(".")[0] not in first]

    def losses() -> list[torch.Tensor]:
        main, aux2, aux1 = model(images)
        return [loss_function(main, labels), 0.3 * loss_function(aux1, labels), 0.3 * loss_function(aux2, labels)]

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        values = losses()
        backward(values, inputs=trunk, retain_graph=True, parallel_chunk_size=1)
        jac_to_grad(trunk, aggregator)
        torch.stack(values).sum().backward(inputs=rest)
        optimizer.step()

    def plain() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses()).sum().backward()
        optimizer.step()

    return {"torchjd": run, "torch": plain}
