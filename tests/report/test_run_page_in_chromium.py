"""The page of runs in headless Chromium: charts have marks, tabs and sliders move, text is inert, nothing is asked."""

from __future__ import annotations

import json
import math
import time

import pytest

from tests.report.browser import LIMIT, Reader, chromium
from tests.report.written_runs import header, step, tokens, trained_digits, write
from xent.report.run_page import write_report

pytestmark = pytest.mark.slow
TABS = ["loss", "where", "calibration", "gradients", "steps", "findings", "time", "setup"]
HOSTILE = "<script>window.hurt=1</script><img src=x onerror=window.hurt=1>\"'`${}\u202eabc\x00\x1b\u2028"


@pytest.fixture(scope="module")
def driver():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three trainings on the digits, that with a rate of 2 stuck at guessing."""
    root = tmp_path_factory.mktemp("runs")
    return [trained_digits(root / f"lr-{lr}", lr, epochs=3) for lr in (0.5, 0.05, 2.0)]


@pytest.fixture
def reader(driver):
    return Reader(driver)


def opened(reader: Reader, tmp_path, *runs) -> None:
    write_report(list(runs), tmp_path / "page.html")
    reader.open(tmp_path / "page.html")
    drawn(reader)


def drawn(reader: Reader) -> None:
    """Wait until every chart that is on the page stands."""
    deadline = time.monotonic() + LIMIT
    while reader.js("return [...document.querySelectorAll('.chart')].some((c) => !c.querySelector('svg'))"):
        assert time.monotonic() < deadline, "a chart is not drawn"
        time.sleep(0.05)


def choose(reader: Reader, tab: str) -> None:
    reader.one(f"#tab-{tab}").click()
    drawn(reader)


def marks(reader: Reader, chart: str) -> int:
    """Shapes of positive size."""
    return reader.js(
        "return [...document.querySelectorAll(arguments[0] + ' svg .role-mark path')]"
        ".filter((p) => { const b = p.getBBox(); return b.width + b.height > 0 }).length",
        f"#chart-{chart}",
    )


def test_every_tab_has_its_marks_and_nothing_complains(reader, tmp_path, digits):
    opened(reader, tmp_path, digits[0])
    expected = {
        "loss": {"loss": 3, "accuracy": 2, "rate": 1, "means": 1},
        "where": {"class-heat": 20}, "calibration": {"reliability": 3, "ece": 1},
        "gradients": {"layer-heat": 20, "layer-lines": 2}, "time": {"time": 4, "throughput": 1},
    }  # fmt: skip
    for tab in TABS:
        choose(reader, tab)
        for chart, least in expected.get(tab, {}).items():
            assert marks(reader, chart) >= least, chart
    assert reader.complaints() == []


def test_the_numbers_on_the_page_are_those_of_the_records(reader, tmp_path, digits):
    opened(reader, tmp_path, digits[0])
    records = [json.loads(line) for line in (digits[0] / "records.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "step"][-1]
    held = [record for record in records if record["kind"] == "evaluation"][-1]
    figures = reader.js("return [...document.querySelectorAll('#figures dd')].map((d) => d.firstChild.textContent)")
    assert figures[:3] == [f"{last['loss']:.4f}", f"{held['loss']:.4f}", f"{100 * held['accuracy']:.2f} %"]
    choose(reader, "where")
    worst = [record for record in records if record["kind"] == "worst_rows"][-1]
    shown = reader.js("return [...document.querySelectorAll('.cards .big')].map((d) => parseFloat(d.textContent))")
    assert shown == pytest.approx([row["loss"] for row in worst["rows"]], abs=0.005)
    assert reader.js("const c = document.querySelector('.cards canvas'); return [c.width, c.height]") == [8, 8]


def test_the_throughput_is_that_of_the_middle_step(reader, tmp_path):
    """One step in which the machine did something else says nothing of the run; a gap that is none has no sign."""
    rates = [100.0, 30000.0, 20000.0, 40000.0, 7.0]
    steps = [step(number, 2.0, rows_per_second=rate) for number, rate in enumerate(rates, 1)]
    bins = [
        {"low": low, "high": low + 0.1, "count": 5, "confidence": confidence, "accuracy": accuracy}
        for low, confidence, accuracy in ((0.4, 0.48, 0.6), (0.9, 0.9901, 0.99))
    ]
    calibration = {"kind": "calibration", "step": 5, "ece": 0.06, "bins": bins, "count": 10}
    opened(reader, tmp_path, write(tmp_path / "x", [header(), *steps, calibration]))
    figures = reader.js("return [...document.querySelectorAll('#figures dd')].map((d) => d.textContent)")
    assert figures[-1] == "20,000 rows/s"
    choose(reader, "calibration")
    gaps = "return [...document.querySelectorAll('table.data td:nth-child(3)')].map((d) => d.textContent)"
    assert reader.js(gaps) == ["+12.0", "0.0"]


def test_a_later_measurement_of_the_training_rows_stands_before_the_last_batch(reader, tmp_path):
    """90 steps of which two are recorded: their loss is not where the training ended."""
    measured = {"kind": "evaluation", "step": 90, "split": "train", "loss": 0.25, "count": 64, "accuracy": 0.9}
    ended = {"kind": "end", "status": "done", "steps": 90, "seconds": 1.0, "error": None}
    opened(reader, tmp_path, write(tmp_path / "x", [header(), step(1, 2.4), step(2, 2.3), measured, ended]))
    first = reader.one("#figures").text
    assert "train set" in first
    assert "0.2500" in first
    assert "2.3000" not in first
    assert "90 steps" in reader.one("#status").text


def test_a_text_by_surprisal_has_nothing_below_it_but_its_words(reader, tmp_path):
    opened(reader, tmp_path, write(tmp_path / "x", [header(), step(1, 2.0), tokens(1), step(2, 2.0), tokens(2)]))
    choose(reader, "where")
    reader.one(".tokens")
    assert "null" not in reader.one("#panel").text


def test_tabs_by_keyboard(reader, tmp_path, digits):
    from selenium.webdriver.common.keys import Keys

    opened(reader, tmp_path, digits[0])
    reader.one("#tab-loss").click()
    moves = ((Keys.ARROW_RIGHT, "where"), (Keys.END, "setup"), (Keys.ARROW_RIGHT, "loss"), (Keys.ARROW_LEFT, "setup"))
    for key, tab in moves:
        reader.keys(key)
        assert reader.focused() == f"tab-{tab}"
        assert reader.one(f"#tab-{tab}").get_attribute("aria-selected") == "true"
    assert len(reader.all('#tabs [tabindex="0"]')) == 1
    assert reader.js("return document.getElementById('panel').getAttribute('aria-labelledby')") == "tab-setup"


def test_the_slider_by_mouse_and_keyboard_moves_every_sample(reader, tmp_path, digits):
    from selenium.webdriver.common.keys import Keys

    opened(reader, tmp_path, digits[0])
    choose(reader, "where")
    before = reader.one("#panel").text
    slider = reader.one("#slider-worst")
    assert slider.get_attribute("aria-valuetext") == "step 61"
    reader.drag(slider, 0.0)
    assert slider.get_attribute("aria-valuetext") == "step 1"
    assert reader.one("#slider-classes").get_attribute("aria-valuetext") == "step 1"
    assert reader.one("#panel").text != before
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") == "step 21"
    choose(reader, "steps")  # the step is the reader's, on every tab and after a reload
    assert reader.one("#slider-ledgers").get_attribute("aria-valuetext") == "step 21"
    reader.driver.refresh()
    drawn(reader)
    assert reader.one("#tab-steps").get_attribute("aria-selected") == "true"
    assert reader.one("#slider-ledgers").get_attribute("aria-valuetext") == "step 21"
    assert "equal (0 ulp)" in reader.one("#panel").text


def test_a_curve_is_read_by_pointer_and_keys(reader, tmp_path, digits):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(reader, tmp_path, digits[0])
    chart = reader.one("#chart-loss")
    readout = "#chart-loss + .readout"
    assert reader.one(readout).text.startswith("step 69")
    ActionChains(reader.driver).move_to_element_with_offset(chart, -300, 0).perform()
    assert not reader.one(readout).text.startswith("step 69")
    reader.js("arguments[0].focus()", chart)
    for key, words in ((Keys.HOME, "step 1\n"), (Keys.ARROW_RIGHT, "step 2\n"), (Keys.END, "step 69\n")):
        reader.keys(key)
        assert (reader.one(readout).text + "\n").startswith(words)


def test_a_value_of_another_step_says_so_and_few_steps_have_whole_ticks(reader, tmp_path):
    measured = {"kind": "evaluation", "step": 3, "split": "validation", "loss": 2.0, "count": 64, "accuracy": 0.5}
    opened(reader, tmp_path, write(tmp_path / "x", [header(), step(1, 2.4), step(2, 1.2), measured]))
    assert reader.one("#chart-loss + .readout").text.replace("\n", " ").split() == (
        ["step", "3", "train", "1.2000", "(step", "2)", "validation", "2.0000"]
    )
    labels = "return [...document.querySelectorAll('#chart-loss .role-axis-label text')].map((e) => e.textContent)"
    assert [label for label in reader.js(labels) if label in {"1", "1.5", "2", "2.5", "3"}][:3] == ["1", "2", "3"]


def test_the_log_axis(reader, tmp_path, digits):
    opened(reader, tmp_path, digits[0])
    linear = marks(reader, "loss")
    reader.one('[data-key="scale-log"]').click()
    drawn(reader)
    assert reader.one('[data-key="scale-log"]').get_attribute("aria-pressed") == "true"
    assert marks(reader, "loss") == linear
    assert reader.complaints() == []


def test_several_runs_lie_over_one_another(reader, tmp_path, digits):
    opened(reader, tmp_path, *digits)
    assert len(reader.all("#chart-loss .mark-line.role-mark path")) == 6  # three runs, train and validation
    blue = reader.js("return getComputedStyle(document.documentElement).getPropertyValue('--own').trim()")
    own = (
        "return [...document.querySelectorAll('#chart-loss .mark-line.role-mark path')]"
        ".filter((p) => p.getAttribute('stroke') === arguments[0]).length"
    )
    assert reader.js(own, blue) == 2
    reader.all("#runs button")[1].click()
    drawn(reader)
    assert reader.one("#name").text == "lr-0.05"
    assert reader.js(own, blue) == 2
    choose(reader, "setup")
    assert "lr 0.5 0.05 2" in " ".join(reader.one("#panel table").text.split())
    assert reader.complaints() == []


def test_hostile_text_is_inert(reader, tmp_path):
    rows = [{"row": HOSTILE, "target": HOSTILE, "prediction": HOSTILE, "probability": 0.5, "loss": 1, "text": HOSTILE}]
    run = write(tmp_path / "x", [
        header(HOSTILE, config={HOSTILE: HOSTILE}, command=[HOSTILE], machine={"cpu": HOSTILE}), step(1, 1.0),
        {"kind": "tokens", "step": 1, "pieces": [{"text": HOSTILE, "nats": 1.0}, *tokens(1)["pieces"]]},
        {"kind": "tokens", "step": 2, "pieces": [{"text": HOSTILE * 80_000, "nats": 1.0}] * 2},
        {"kind": "worst_rows", "step": 1, "rows": rows},
        {"kind": "classes", "step": 1, "classes": [{"class": 1, "name": HOSTILE, "loss": 1, "count": 2}]},
        {"kind": "classes", "step": 2, "classes": [{"class": 1, "name": HOSTILE, "loss": 1, "count": 2}]},
        {"kind": "layers", "step": 1, "layers": [{"name": HOSTILE, "gradient_norm": 1.0}]},
        {"kind": "finding", "step": 1, "rule": HOSTILE, "severity": HOSTILE, "message": HOSTILE, "source": HOSTILE},
        {"kind": "evaluation", "step": 1, "split": HOSTILE, "loss": 1.0},
        {"kind": "end", "status": HOSTILE, "error": HOSTILE},
    ])  # fmt: skip
    opened(reader, tmp_path, run)
    for tab in TABS:
        choose(reader, tab)
        assert reader.js("return document.querySelectorAll('#panel script, #panel img, header img').length") == 0
    assert reader.js("return window.hurt") is None
    assert reader.complaints() == []
    assert "⟨U+202E⟩" in reader.one("h1").text
    assert (tmp_path / "page.html").stat().st_size < 1_500_000


def test_empty_parts_say_so(reader, tmp_path):
    opened(reader, tmp_path, write(tmp_path / "x", [header()]))
    for tab in TABS[:-1]:
        choose(reader, tab)
        assert len(reader.all("#panel .empty")) == 1
    assert reader.complaints() == []


def test_narrow_and_dark(reader, tmp_path, digits):
    """400 pixels: nothing is wider than the screen; the theme reaches the charts."""
    command = reader.driver.execute_cdp_cmd
    command(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        opened(reader, tmp_path, *digits)
        for tab in TABS:
            choose(reader, tab)
            assert reader.js("return document.documentElement.scrollWidth") <= 400, tab
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
    choose(reader, "loss")
    label = "return document.querySelector('#chart-loss .role-axis-label text').getAttribute('fill')"
    light = reader.js(label)
    reader.js("document.getElementById('theme').click()")
    drawn(reader)
    deadline = time.monotonic() + LIMIT
    while reader.js(label) == light:
        assert time.monotonic() < deadline, "the charts kept the colours of the other theme"
        time.sleep(0.05)


def test_long_names_and_lines_on_a_narrow_page(reader, tmp_path):
    """Names of layers differ in their ends; a line of the user's code is as long as it is."""
    names = [f"model.{'a_module_with_a_long_name.' * 3}{number}" for number in range(3)]
    norms = {"gradient_norm": 1.0, "update_norm": 0.1, "weight_norm": 2.0, "update_ratio": 0.05, "dead_fraction": None}
    layers = [{"kind": "layers", "step": n, "layers": [{"name": name, **norms} for name in names]} for n in (1, 2)]
    finding = {"kind": "finding", "step": 2, "rule": "x", "source": "loss = F.cross_entropy(" + "logits, " * 30 + ")"}
    run = write(tmp_path / "x", [header(layers=names), step(1, 2.0), step(2, 1.9), *layers, finding])
    command = reader.driver.execute_cdp_cmd
    command(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        opened(reader, tmp_path, run)
        for tab in ("findings", "gradients"):
            choose(reader, tab)
            assert reader.js("return document.documentElement.scrollWidth") <= 400, tab
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
    shown = reader.js("return [...document.querySelectorAll('#chart-layer-heat svg text')].map((t) => t.textContent)")
    assert {text[-2:] for text in shown if text.startswith("…")} == {".0", ".1", ".2"}, shown


def test_the_head_tells_a_lost_loss_and_names_no_unit_that_it_does_not_know(reader, tmp_path):
    figures = "return [...document.querySelectorAll('#figures > *')].map((e) => e.textContent)"
    opened(reader, tmp_path, write(tmp_path / "x", [header(), step(1, 2.0), step(2, "nan"), step(3, "nan")]))
    assert "train, since step 2nan nats" in "|".join(reader.js(figures))
    assert "From step 2 on no loss is finite." in reader.one("#panel").text
    unknown = step(1, 5.0, sum_nll=None, count=None, rows_per_second=None, ruler={})
    opened(reader, tmp_path, write(tmp_path / "y", [header(), unknown]))
    assert "nats" not in "|".join(reader.js(figures)) + reader.one("#panel").text
    turns = [step(n, float(n), optimizer=n % 2) for n in range(1, 5)]
    opened(reader, tmp_path, write(tmp_path / "z", [header(), *turns]))
    shown = "|".join(reader.js(figures))
    assert "train, optimizer 04.0000 nats" in shown
    assert "train, optimizer 13.0000 nats" in shown
    assert reader.complaints() == []


def test_a_hundred_thousand_steps(reader, tmp_path):
    steps = (step(n, 2 + math.sin(n / 9) / 2 + (5 if n == 4321 else 0)) for n in range(1, 100_001))
    run = write(tmp_path / "x", [header(), *steps])
    opened(reader, tmp_path, run)
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    assert "100,000 recorded steps are drawn as 600 points" in reader.one("#notes").text
    assert len(reader.all("svg *")) < 4000  # what makes a page open fast
    assert reader.complaints() == []
