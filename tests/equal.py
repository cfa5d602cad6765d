"""Equality of trees, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def equal(a: Any, b: Any) -> None:
    """Asserts that two trees have the same bits, PRNG keys included."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)
