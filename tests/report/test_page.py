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


def test_every_recorded_diagnostic_has_its_figure_and_a_damaged_one_a_line(tmp_path: Path) -> None:
    folder = make_ablation(tmp_path / "ablation", weights=(0.3,), seeds=2, points=4, diagnostics=True)
    content = gather([folder])
    assert {plot.name for plot in content.plots} == {
        "learning_curves", "exits", "weights", "gradient_norm_by_layer", "gradient_profile_over_time",
        "gradient_by_loss", "cosine_over_time", "similarity_matrix", "variance_over_time", "hessian_over_time",
        "hessian_at_the_end", "ntk_over_time", "ntk_at_the_end", "probes_by_layer", "exits_by_layer", "cka_matrix",
        "landscape_at_the_end",
    }  # fmt: skip
    path = next(folder.glob("runs/*/diagnostics.jsonl"))
    path.write_text(path.read_text() + '{"step": 700, "diagnostic": "variance", "losses": "total"}\n')
    content = gather([folder])
    assert "variance_over_time" not in {plot.name for plot in content.plots}
    assert any(text.startswith("The records of variance could not be drawn") for text in content.unsupported)


def test_a_gradients_profile_is_the_geometric_mean_over_seeds(tmp_path: Path) -> None:
    for seed, norm in enumerate((1.0, 100.0)):
        folder = make_run(tmp_path / str(seed), {}, seed, 0.8, points=2)
        record = {"step": 1, "diagnostic": "gradient_norm", "layers": ["a", "b"], "losses": ["main", "total"]}
        values = [[norm, 4.0], [norm, 4.0]]
        (folder / "diagnostics.jsonl").write_text(json.dumps({**record, "norm": values}) + "\n")
    plot = next(plot for plot in gather([tmp_path]).plots if plot.name == "gradient_norm_by_layer")
    (line,) = plot.frames[0].panels[0].series
    assert plot.categories == ["a", "b"] and list(line.y) == pytest.approx([10.0, 4.0])
