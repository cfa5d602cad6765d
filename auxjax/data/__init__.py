"""Data through TFDS and Grain without TensorFlow: prepared sets by name, small ones on the device, large from disk."""

from auxjax.data.batch import BatchSpec, to_batch
from auxjax.data.pipeline import Pipeline, open_pipeline
from auxjax.data.prepare import PREPARED, prepare
from auxjax.data.sets import DataSet, arrays, load

__all__ = ["PREPARED", "BatchSpec", "DataSet", "Pipeline", "arrays", "load", "open_pipeline", "prepare", "to_batch"]
