"""Colours that the colour-blind and a grey printer tell apart: Okabe and Ito's for lines, two scales for grids."""

from __future__ import annotations

from collections.abc import Sequence

# The baseline is grey; of Okabe & Ito 2008, those that are legible as lines on white, and a brown.
BASELINE = "#5f6368"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8c4a2f")
DASHES = ("", "6 3", "2 2")
# Perceptually even: light to dark blue; and blue, near-white, orange.
SEQUENTIAL = ("#f3f7fb", "#b9d4ea", "#6ea6d2", "#2f73b0", "#0f3f77")
DIVERGING = ("#1f5a99", "#8db9dd", "#f5f5f5", "#f0b37e", "#b35806")


def line(number: int) -> tuple[str, str]:
    """Returns the colour and the dashes (as SVG writes them) of the arm of that number, the baseline apart."""
    return LINES[number % len(LINES)], DASHES[number // len(LINES) % len(DASHES)]


def at(scale: Sequence[str], share: float) -> str:
    """Returns the colour at a share from 0 to 1 of a scale, between its two nearest ones."""
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    first, second = (bytes.fromhex(scale[i][1:]) for i in (low, low + 1))
    mixed = [round(a + (b - a) * (place - low)) for a, b in zip(first, second, strict=True)]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
