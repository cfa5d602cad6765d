"""One GoogLeNet, plain and folded, that the tests of a format share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from auxjax.export import Network, fold
from auxjax.models import GoogLeNet, googlenet
from tests.export.networks import make


@pytest.fixture(scope="module")
def googlenets() -> Iterator[tuple[Network, Network]]:
    """GoogLeNet with one of its nine blocks, and the same folded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(googlenet, "TABLE_1", {"inception_3a": googlenet.TABLE_1["inception_3a"]})
        network = make(GoogLeNet(num_classes=10, variant="bn", stem="small"), (8, 8, 1))
        yield network, fold(network)
