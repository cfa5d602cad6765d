"""The stripped network as files for others: safetensors, StableHLO, ONNX, torchvision's names; BatchNorm folded.

Every file is read back and run against the network it came from before it takes its name.
"""

from auxjax.export.folder import load_folder
from auxjax.export.folding import fold
from auxjax.export.network import Network, bare_network
from auxjax.export.run import export_run
from auxjax.export.stablehlo import write_stablehlo
from auxjax.export.state_dict import write_torchvision
from auxjax.export.tensors import read_tensors, write_tensors
from auxjax.export.to_onnx import write_onnx

__all__ = [
    "Network", "bare_network", "export_run", "fold", "load_folder", "read_tensors", "write_onnx", "write_stablehlo",
    "write_tensors", "write_torchvision",
]  # fmt: skip
