"""The state dict loads into torchvision's network, which then gives the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from auxjax import pretrained
from auxjax.errors import AuxjaxError
from auxjax.export import write_torchvision
from auxjax.export.network import relative_error
from auxjax.models import ResNet
from tests.export.networks import make
from tests.small import SmallNet
from tests.torch_models import import_torchvision


def test_torchvision_loads_it_and_gives_the_same_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = import_torchvision()
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    network = make(ResNet(num_classes=10, depth=18), (32, 32, 3))
    write_torchvision(tmp_path / "net.safetensors", network)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    module = torchvision.models.resnet18(num_classes=10)
    state = safetensors.load_file(tmp_path / "net.safetensors")
    assert state["bn1.num_batches_tracked"].dtype == torch.int64 and state["bn1.num_batches_tracked"].shape == ()
    module.load_state_dict(state)
    x, expected = network.examples[1]
    with torch.no_grad():
        actual = module.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert relative_error(actual, expected) < 1e-4
    without = {"params": network.variables["params"]}
    with pytest.raises(AuxjaxError, match=r"before any folding: batch_stats/bn1/mean is absent"):
        write_torchvision(tmp_path / "folded.safetensors", network._replace(variables=without))
    read = pretrained.read_tensors
    monkeypatch.setattr(pretrained, "read_tensors", lambda path: {k: np.flip(v) for k, v in read(path).items()})
    with pytest.raises(AuxjaxError, match="was not written right"):
        write_torchvision(tmp_path / "wrong.safetensors", network)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_network_that_torchvision_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuxjaxError, match="torchvision has no SmallNet"):
        write_torchvision(tmp_path / "net.safetensors", make(SmallNet(), (8, 8, 3)))
