"""StableHLO: one file that any jax runs without the model's code, on a CPU, a GPU or a TPU, at any batch size."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax import ops
from auxjax.errors import AuxjaxError, missing_extra
from auxjax.export.network import Network, baked, check_outputs, check_size
from auxjax.export.tensors import new_file

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(path: str | os.PathLike[str], network: Network) -> None:
    """Writes the network, its weights inside, as serialised by `jax.export`, after it was read back and run.

    It takes float32[b, H, W, C], b being any: `jax.export.deserialize(bytearray(open(path, "rb").read())).call(x)`.
    Raises AuxjaxError where flatbuffers is missing, where a model does not allow a symbolic batch size, and where the
    file gives other outputs than the network or holds more than its arrays.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise missing_extra("flatbuffers", "export")
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, *network.image_shape), jnp.float32)
    function = jax.jit(baked(network))
    # What is fast on a CPU would be slow elsewhere; the library's form serves everywhere.
    with ops.library_form():
        try:
            exported = jax.export.export(function, platforms=PLATFORMS)(x)
        except jax.errors.InconclusiveDimensionOperation as error:
            raise AuxjaxError(
                f"{type(network.model).__name__} depends on the batch size: {' '.join(str(error).split())[:200]}"
            ) from None
    check_size(str(path), network)
    with new_file(path) as temporary:
        temporary.write_bytes(exported.serialize())
        check_outputs(str(path), network, lambda x: _run(temporary, x))


def _run(path: Path, x: np.ndarray) -> Any:
    return jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)(x)
