"""Prepares a data set without TensorFlow: python experiments/prepare.py --dataset=fashion_mnist"""

from __future__ import annotations

from absl import flags

from auxjax import cli

DATASET = flags.DEFINE_string("dataset", "", "digits, fashion_mnist, cifar10 or cifar100.")
SOURCE = flags.DEFINE_string("source", None, "The published files: a folder of IDX files, or CIFAR's archive.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where to write; default: $TFDS_DATA_DIR, or TFDS's own.")


def main() -> None:
    """Prints where the prepared set is."""
    from auxjax import data

    print(data.prepare(DATASET.value, DATA_DIR.value, SOURCE.value))


if __name__ == "__main__":
    cli.run(main, needs=("dataset",))
