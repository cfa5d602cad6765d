"""Prints the table of models and heads that README.md shows: python experiments/models.py"""

from __future__ import annotations

from auxjax import cli


def main() -> None:
    """Counts parameters by shapes; takes about a minute, for tracing."""
    from auxjax.catalogue import table

    print(table())


if __name__ == "__main__":
    cli.run(main)
