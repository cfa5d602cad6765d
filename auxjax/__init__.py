"""auxjax: train networks with auxiliary heads, tell whether they helped, and ship the network without them."""

from auxjax._version import __version__
from auxjax.attach import attach, list_taps, strip
from auxjax.errors import AuxjaxError
from auxjax.heads import Head, presets
from auxjax.train import Result, evaluate, load, train

__all__ = [
    "AuxjaxError", "Head", "Result", "__version__", "attach", "evaluate", "list_taps", "load", "presets",
    "strip", "train",
]  # fmt: skip
