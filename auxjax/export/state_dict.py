"""torchvision's state dict as safetensors, for `load_state_dict(safetensors.torch.load_file(path))`."""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.errors import AuxjaxError
from auxjax.export.network import Network
from auxjax.export.tensors import new_file, save_arrays
from auxjax.proof import bare_shapes, check_paths, paths


def write_torchvision(path: str | os.PathLike[str], network: Network) -> None:
    """Writes the network's arrays under torchvision's names, after they were read back as a pretrained file would be.

    Raises AuxjaxError for a model that torchvision does not have, a folded network, and where reading the file gives
    other bits than the network's.
    """
    from auxjax.pretrained import import_weights

    state = state_dict(network)
    with new_file(path) as temporary:
        save_arrays(temporary, state, {"format": "pt"})
        blank = jax.tree.map(np.zeros_like, dict(network.variables))
        variables, _ = import_weights(temporary, network.model, blank)
        pairs = zip(jax.tree.leaves(variables), jax.tree.leaves(dict(network.variables)), strict=True)
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            raise AuxjaxError(f"{path} was not written right: its arrays differ from the network's")


def state_dict(network: Network) -> Mapping[str, np.ndarray]:
    """Returns torchvision's state dict of the network; raises AuxjaxError where torchvision does not have it."""
    from auxjax.pretrained import to_torchvision

    x = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    wrong = "torchvision's state dict has every array as it was trained, before any folding"
    check_paths(paths(network.variables), paths(bare_shapes(network.model, x)), wrong)
    return to_torchvision(network.model, network.variables)
