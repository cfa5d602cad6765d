"""Prints the table of weighting methods that README.md shows: python experiments/methods.py"""

from __future__ import annotations

from auxjax import cli


def main() -> None:
    """Prints from the registry alone."""
    from auxjax.weighting.table import table

    print(table())


if __name__ == "__main__":
    cli.run(main)
