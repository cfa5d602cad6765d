"""Pooling, convolution and BatchNorm + ReLU in the form that is fast on each platform, equal to Flax's own.

XLA's CPU compiler is slow at the gradients of max pooling and of BatchNorm, at depthwise convolutions, and at any
convolution's gradient inside a loop; here they are written so that it is not. Accelerators, and code inside
`library_form()`, get the library's form. The choice is made when a function is traced, by the default backend.
"""

from auxjax.ops.convolution import Conv
from auxjax.ops.dropout import Dropout
from auxjax.ops.initialisation import fast_init
from auxjax.ops.normalization import BatchNorm
from auxjax.ops.platform import library_form
from auxjax.ops.pooling import max_pool
from auxjax.ops.resize import resize_bilinear, resize_nearest

__all__ = ["BatchNorm", "Conv", "Dropout", "fast_init", "library_form", "max_pool", "resize_bilinear", "resize_nearest"]
