"""The page in a real browser: it draws, toggles, sorts, tells values, turns dark, and asks nobody for anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from auxjax.report.content import gather
from auxjax.report.page import page
from tests.report.browser import Page, find
from tests.report.made_runs import make_ablation, make_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find() is None, reason="no Chromium on this machine")]
LINES = "document.querySelectorAll('#learning_curves g.line').length"
MEANS = "document.querySelectorAll('#learning_curves path.mean').length"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    make_ablation(folder / "ablation", diagnostics=True, points=12, weights=(0.1, 0.3))
    make_run(folder / "ablation" / "runs" / HOSTILE, {}, 9, 0.8, stop=200)
    (folder / "report.html").write_text(page(gather([folder / "ablation"], targets=[0.7, 0.75])))
    with Page(folder / "profile") as browser:
        browser.open(folder / "report.html")
        yield browser
        # Whatever the tests did, at the end as at the beginning:
        assert browser.complaints() == []
        assert set(browser.requests()) == {(folder / "report.html").as_uri()}


@pytest.fixture(autouse=True)
def afresh(opened: Page) -> None:
    opened.call("Page.reload")
    while opened.evaluate("document.readyState + typeof redraws") != "completeobject":
        pass


def test_it_loads_without_a_complaint_and_draws_everything(opened: Page) -> None:
    assert opened.evaluate("[...document.querySelectorAll('#plots section')].every((s) => s.querySelector('svg'))")
    assert opened.evaluate("document.querySelectorAll('#plots section').length") == 22
    assert opened.evaluate(MEANS) == 5 and opened.evaluate(LINES) == 5 + 26
    assert opened.evaluate("document.querySelectorAll('#supported li').length") == 4
    assert opened.evaluate("document.querySelectorAll('#headline tbody circle').length") == 4
    assert opened.evaluate("document.querySelectorAll('#heat_map .tile line').length") > 5
    assert HOSTILE in opened.evaluate("document.getElementById('runs').textContent")
    assert opened.evaluate("document.images.length") == 0
    assert opened.complaints() == []


def test_an_arm_and_a_run_are_hidden_and_shown(opened: Page) -> None:
    opened.click("#arms button:nth-child(2)")
    assert (
        opened.evaluate("document.querySelector('#arms button:nth-child(2)').getAttribute('aria-pressed')") == "false"
    )
    assert opened.evaluate(MEANS) == 4
    assert not opened.evaluate("document.querySelector('#learning_curves g[data-arm=\"1\"]')")
    opened.evaluate("document.querySelector('#arms button:nth-child(2)').focus()")
    opened.call("Input.dispatchKeyEvent", type="keyDown", key=" ", code="Space", text=" ")
    opened.call("Input.dispatchKeyEvent", type="keyUp", key=" ", code="Space")
    assert opened.evaluate(MEANS) == 5
    opened.click("#runs tbody tr:nth-child(3) button")
    assert opened.evaluate(LINES) == 5 + 25
    opened.click("#options button")
    assert opened.evaluate(LINES) == 5


def test_arms_are_grouped_by_a_feature(opened: Page) -> None:
    opened.choose("#group", "selectedIndex", 1, "change")
    labels = opened.evaluate("[...document.querySelectorAll('#arms button')].map((b) => b.textContent)")
    assert labels[:3] == ["no heads", "at layer_1", "at layer_3"]
    opened.click("#arms button:nth-child(3)")
    assert opened.evaluate(MEANS) == 3
    colours = "new Set([...document.querySelectorAll('#learning_curves path.mean')].map((p) => p.style.cssText)).size"
    assert opened.evaluate(colours) == 2


def test_tables_sort_both_ways_and_what_is_unknown_stays_last(opened: Page) -> None:
    column = "[...document.querySelectorAll('#headline tbody tr')].map((r) => r.children[2].textContent.split(' ')[0])"
    before = opened.evaluate(column)
    opened.click("#headline th:nth-child(3) button")
    values = [float(value) for value in opened.evaluate(column)]
    assert values == sorted(values)
    assert (
        opened.evaluate("document.querySelector('#headline th:nth-child(3)').getAttribute('aria-sort')") == "ascending"
    )
    opened.click("#headline th:nth-child(3) button")
    assert [float(value) for value in opened.evaluate(column)] == values[::-1]
    for _ in range(2):
        opened.click("#headline th:nth-child(4) button")
        names = opened.evaluate(
            "[...document.querySelectorAll('#headline tbody tr')].map((r) => r.children[0].textContent)"
        )
        assert names[-1] == "no heads"
    assert len(before) == 5


def test_hovering_and_arrow_keys_tell_values(opened: Page) -> None:
    opened.evaluate("document.querySelector('#learning_curves svg').scrollIntoView({block: 'center'})")
    box = opened.box("#learning_curves .panel svg")
    opened.move(box["x"] + box["width"] - 20, box["y"] + 60)
    text = opened.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert text.startswith("step 600") and "no heads" in text
    # The mean of 83 + 0.5 seed + 0.1 ((7 seed + 1) mod 3) over seeds 0 to 4, of the best arm.
    assert "84.12 [" in text
    opened.move(5, 5)
    assert opened.evaluate("document.getElementById('tip').hidden")
    opened.evaluate("document.querySelector('#learning_curves .panel svg').focus()")
    opened.press("ArrowLeft")
    assert opened.evaluate("document.getElementById('tip').textContent").startswith("step 550")


def test_axes_frames_and_steps_change(opened: Page) -> None:
    ticks = "[...document.querySelectorAll('#gradient_norm_by_layer text')].map((t) => t.textContent).join()"
    logarithmic = opened.evaluate(ticks)
    opened.click("#gradient_norm_by_layer .tools button")
    assert opened.evaluate(ticks) != logarithmic
    line = "document.querySelector('#gradient_norm_by_layer path.mean').getAttribute('d')"
    last = opened.evaluate(line)
    opened.choose("#gradient_norm_by_layer input", "value", 0, "input")
    assert opened.evaluate(line) != last
    assert "step 1" in opened.evaluate("document.querySelector('#gradient_norm_by_layer .tools').textContent")
    opened.choose("#learning_curves select", "selectedIndex", 1, "change")
    assert "loss of main on test" in opened.evaluate("document.querySelector('#learning_curves .panel').textContent")


def test_it_is_dark_where_the_reader_is_and_on_the_button(opened: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(paper) == "rgb(255, 255, 255)"
    opened.click("#theme")
    assert opened.evaluate(paper) == "rgb(21, 24, 28)"
    opened.click("#theme")
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    # The page hears of it with the next frame.
    opened.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert opened.evaluate(paper) == "rgb(21, 24, 28)"
    opened.call("Emulation.setEmulatedMedia", features=[])


def test_a_narrow_window_scrolls_only_inside_tables(opened: Page, tmp_path: Path) -> None:
    opened.resize(400, 800)
    width = 0
    for _ in range(50):  # a busy machine lays the page out later
        width = opened.evaluate("window.innerWidth <= 400 ? document.documentElement.scrollWidth : 1e9")
        if width <= 400:
            break
        time.sleep(0.1)
    assert width <= 400
    opened.screenshot(tmp_path / "narrow.png")
    assert (tmp_path / "narrow.png").stat().st_size > 10_000
    opened.resize(1280, 900)


def test_headings_name_their_columns_and_controls_themselves(opened: Page) -> None:
    assert opened.evaluate("[...document.querySelectorAll('thead th')].every((t) => t.scope === 'col')")
    controls = "[...document.querySelectorAll('button, select, input, svg[role=img]')]"
    assert opened.evaluate(f"{controls}.length") > 80
    assert (
        opened.evaluate(f"{controls}.filter((e) => !e.textContent.trim() && !e.getAttribute('aria-label')).length") == 0
    )
