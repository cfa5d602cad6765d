"""ONNX through jax2onnx, for onnxruntime and what else reads it, at any batch size."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from auxjax import ops
from auxjax.errors import AuxjaxError, missing_extra
from auxjax.export.network import Network, baked, check_outputs, check_size
from auxjax.export.tensors import new_file

PACKAGES = ("jax2onnx", "onnx", "onnxruntime")


def write_onnx(path: str | os.PathLike[str], network: Network) -> None:
    """Writes the network, its weights inside, from `image` float32[b, H, W, C] to `logits`, after onnxruntime ran it.

    Raises AuxjaxError where a package is missing, for a network that does not compute in float32, for an operation that
    jax2onnx lacks, and where onnxruntime gives other outputs or the file holds more than the network's arrays.
    The largest difference may be network.TOLERANCE, 1e-4, of the largest output.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "onnx")
    check_onnx(network)
    check_size(str(path), network)
    proto = _convert(network)
    with new_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        try:
            session = _session(str(temporary))
            outputs = {len(x): session.run(None, {"image": x}) for x, _ in network.examples}
        except Exception as error:  # onnxruntime has a class for every status, and no common one
            raise AuxjaxError(f"onnxruntime cannot run {path}: {_one_line(error)}") from None
        check_outputs(str(path), network, lambda x: outputs[len(x)])


def check_onnx(network: Network) -> None:
    """Raises AuxjaxError for a network that ONNX cannot take, before anything is written."""
    dtypes = {np.dtype(y.dtype).name for _, outputs in network.examples for y in jax.tree.leaves(outputs)}
    if dtypes != {"float32"}:
        raise AuxjaxError(
            f"ONNX needs a network that computes in float32, not {', '.join(sorted(dtypes))}, which onnxruntime's CPU "
            "cannot convolve in"
        )


def _convert(network: Network) -> Any:
    outputs = jax.tree.leaves(network.examples[0][1])
    function = _convertible(baked(network))
    names = ["logits"] if len(outputs) == 1 else [f"output_{i}" for i in range(len(outputs))]
    with _quiet():
        import jax2onnx

        # jax2onnx knows the library's operations, not derivatives of our own.
        with ops.library_form(), jax.numpy_rank_promotion("allow"):
            try:
                return jax2onnx.to_onnx(
                    function, inputs=[("B", *network.image_shape)], model_name=type(network.model).__name__,
                    input_names=["image"], output_names=names,
                )  # fmt: skip
            except Exception as error:  # whatever its plugins raise
                reason = _one_line(error)
    raise AuxjaxError(f"jax2onnx cannot convert this {type(network.model).__name__}: {reason}")


def _convertible(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns `function` for jax2onnx to trace, less what it replaces by forms that do not serve.

    Its pools ignore explicit padding, and take no arguments by position; its jnp.shape is an array, which nn.scan
    cannot have.
    """
    shape = jnp.shape

    def run(x: Any) -> Any:
        replacements: list[tuple[Any, str, Any]] = [
            (jnp, "shape", shape),
            (nn, "max_pool", functools.partial(_max_pool, nn.max_pool)),
            (nn, "avg_pool", functools.partial(_avg_pool, nn.avg_pool)),
        ]
        with contextlib.ExitStack() as stack:
            for owner, name, value in replacements:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            return function(x)

    return run


def _max_pool(pool: Any, x: Any, window_shape: Any, strides: Any = None, padding: Any = "VALID") -> Any:
    steps = strides or (1,) * len(window_shape)
    if not isinstance(padding, str):
        x, padding = _pad(x, padding, -jnp.inf), "VALID"
    return pool(x, window_shape=window_shape, strides=steps, padding=padding)


def _avg_pool(
    pool: Any, x: Any, window_shape: Any, strides: Any = None, padding: Any = "VALID", count_include_pad: bool = True
) -> Any:
    given = {"window_shape": window_shape, "strides": strides or (1,) * len(window_shape)}
    if isinstance(padding, str):
        return pool(x, padding=padding, count_include_pad=count_include_pad, **given)
    y = pool(_pad(x, padding, 0.0), padding="VALID", count_include_pad=True, **given)
    if count_include_pad:
        return y
    # The mean of ones and of the zeros around them is the share of a window that lies inside.
    inside = pool(_pad(jnp.ones_like(x[:1, ..., :1]), padding, 0.0), padding="VALID", count_include_pad=True, **given)
    return y / inside


def _pad(x: Any, padding: Any, value: float) -> Any:
    sides = [(side, side) if isinstance(side, int) else tuple(side) for side in padding]
    return jnp.pad(x, [(0, 0), *sides, (0, 0)], constant_values=value)


def _session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps jax2onnx from telling of every plugin that does not load, of deprecations, and of each convolution."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
