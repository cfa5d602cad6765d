"""The page: one file without a network, small, and safe whatever a run is called."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from auxjax.report.content import gather
from auxjax.report.page import LIMIT, data, page, short, to_json
from auxjax.report.plots import Series, thin
from tests.report.made_runs import make_ablation, make_run

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;\u2028 @@DATA@@ $x^2$ """


class Elements(HTMLParser):
    """The elements of a page, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


def embedded(text: str) -> Any:
    """The JSON that a page holds."""
    return json.loads(Elements(text).scripts[0])


def test_a_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    elements = Elements(page(gather([make_ablation(tmp_path / "a", points=5, diagnostics=True)])))
    assert not [attributes for tag, attributes in elements.found if tag in ("img", "iframe", "object", "embed")]
    links = [value for _, attributes in elements.found for key, value in attributes.items() if key in ("src", "href")]
    assert links == ["data:,"]
    policy = next(attributes["content"] for _, attributes in elements.found if "http-equiv" in attributes)
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy
    assert "@import" not in page(gather([tmp_path])) and "url(" not in page(gather([tmp_path]))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE.replace("/", "\u2215")
    make_run(folder, {"aux1": (HOSTILE, 0.3)}, 0, 0.8)
    make_run(tmp_path / "plain", {}, 0, 0.8)
    (tmp_path / "ablation.json").write_text(json.dumps({"name": HOSTILE}))
    content = gather([tmp_path])
    elements = Elements(page(content))
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert not [tag for tag, _ in elements.found if tag == "img"]
    made = embedded(page(content))
    assert made["title"] == HOSTILE
    assert f"at {HOSTILE}" in [arm["name"] for arm in made["arms"]]
    assert json.loads(to_json({HOSTILE: HOSTILE})) == {HOSTILE: HOSTILE} and "<" not in to_json(HOSTILE)


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {}, 0, 0.8, points=4)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(re.sub(r'"loss/main": [0-9.]+', '"loss/main": NaN', text))
    assert "NaN" in (folder / "metrics.jsonl").read_text()
    made = embedded(page(gather([tmp_path])))
    assert made["plots"][0]["frames"][0]["label"] == "accuracy of main on test"
    assert [short(value) for value in (float("nan"), float("inf"), None, 1.0, 123456.7)] == [
        None,
        None,
        None,
        1,
        123460,
    ]


def test_sixty_runs_of_300_points_stay_below_a_megabyte(tmp_path: Path) -> None:
    for arm in range(12):
        for seed in range(5):
            heads = {"aux1": (f"layer_{arm % 4 + 1}", 0.1 * (arm // 4))}
            make_run(tmp_path / f"{arm}-{seed}", heads, seed, 0.8, points=300, total=3000)
    content = gather([tmp_path])
    size = len(page(content).encode())
    assert 100_000 < size < LIMIT
    made = data(content, 500)
    assert len(made["runs"]) == 60 and max(len(xs) for xs in made["plots"][0]["xs"]) == 300


def test_long_curves_are_thinned_to_what_fits_and_keep_their_ends(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {}, 0, 0.8, points=3000, total=3000)
    xs = embedded(page(gather([tmp_path])))["plots"][0]["xs"]
    assert [(len(x), x[0], x[-1]) for x in xs] == [(500, 1, 3000)]


@pytest.mark.parametrize("points", [2, 3, 7, 100])
def test_thinning(points: int) -> None:
    line = Series("a", "a", [float(i) for i in range(100)], [2.0 * i for i in range(100)], [0.0] * 100, [1.0] * 100)
    made = thin(line, points)
    assert len(made.x) == len(made.y) == len(made.low) == points and (made.x[0], made.x[-1]) == (0, 99)
    assert all(y == 2 * x for x, y in zip(made.x, made.y, strict=True) if y is not None)
