"""auxjax: train networks with auxiliary heads, tell whether they helped, and ship the network without them."""

from auxjax._version import __version__
from auxjax.attach import attach, list_taps, strip
from auxjax.errors import AuxjaxError
from auxjax.exit_table import exit_table
from auxjax.exits import exits
from auxjax.heads import Head, presets
from auxjax.pretrained import import_weights
from auxjax.summary import summary
from auxjax.train import Result, evaluate, load, load_attached, train

__all__ = [
    "AuxjaxError", "Head", "Result", "__version__", "attach", "evaluate", "exit_table", "exits", "import_weights",
    "list_taps", "load", "load_attached", "presets", "strip", "summary", "train",
]  # fmt: skip
