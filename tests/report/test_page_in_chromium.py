"""The page in a real browser: what it computes when something moves is what torch computes, and it keeps to itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import xent
from tests.report.browser import Reader, chromium

N, C = 6, 4
GENERATOR = torch.Generator().manual_seed(5)
LOGITS = 2 * torch.randn(N, C, generator=GENERATOR, dtype=torch.float64)
TARGET = torch.tensor([1, 0, 3, -100, 2, 2])
SOFT = torch.rand(N, C, generator=GENERATOR, dtype=torch.float64).softmax(1)
WEIGHT = torch.tensor([1.0, 2.5, 0.5, 3.0], dtype=torch.float64)
ROW_WEIGHT = torch.tensor([1.0, 0.25, 2.0, 1.0, 0.5, 3.0], dtype=torch.float64)
HIT = (SOFT > 0.25).double()
MASK = (SOFT > 0.2).double()
BINARY = F.binary_cross_entropy_with_logits


@pytest.fixture(scope="module")
def reader():
    with chromium() as driver:
        yield Reader(driver)


@dataclass(frozen=True)
class Case:
    """A loss of logits, and the row that is moved."""

    loss: Callable[[Tensor], Tensor]
    row: int = 2
    elements: bool = False  # every element is a row


CASES = {
    "mean": Case(lambda x: F.cross_entropy(x, TARGET)),
    "sum": Case(lambda x: F.cross_entropy(x, TARGET, reduction="sum")),
    "ignored row": Case(lambda x: F.cross_entropy(x, TARGET), row=3),
    "class weight": Case(lambda x: F.cross_entropy(x, TARGET, WEIGHT)),
    "smoothing": Case(lambda x: F.cross_entropy(x, TARGET, label_smoothing=0.2)),
    "smoothing and weight": Case(lambda x: F.cross_entropy(x, TARGET, WEIGHT, label_smoothing=0.2)),
    "probabilities": Case(lambda x: F.cross_entropy(x, SOFT, WEIGHT, label_smoothing=0.1)),
    "nll of log_softmax": Case(lambda x: F.nll_loss(F.log_softmax(x, 1), TARGET, WEIGHT)),
    "by hand": Case(lambda x: (x.logsumexp(1) - x[torch.arange(N), TARGET.clamp(0)]).mean()),
    "scaled": Case(lambda x: 0.3 * F.cross_entropy(x, TARGET) / 2),
    "row weight": Case(lambda x: xent.cross_entropy(x, TARGET, row_weight=ROW_WEIGHT)),
    "normalizer": Case(lambda x: xent.cross_entropy(x, TARGET, WEIGHT, normalizer=11.0)),
    "z-loss": Case(lambda x: xent.cross_entropy(x, TARGET, WEIGHT, z_loss=0.05, row_weight=ROW_WEIGHT)),
    "softcap and scale": Case(lambda x: xent.cross_entropy(x, TARGET, softcap=3.0, logit_scale=0.7, z_loss=0.01)),
    "soft z-loss": Case(lambda x: xent.cross_entropy(x, SOFT, z_loss=0.05, softcap=5.0, label_smoothing=0.1)),
    "binary": Case(lambda x: F.binary_cross_entropy_with_logits(x, HIT, WEIGHT, pos_weight=WEIGHT + 1), 9, True),
    "binary, soft": Case(lambda x: F.binary_cross_entropy_with_logits(x, SOFT, reduction="sum"), 9, True),
    "binary, masked": Case(lambda x: (BINARY(x, HIT, reduction="none") * MASK).sum() / MASK.sum(), 9, True),
    "divergence": Case(lambda x: F.kl_div(x.log_softmax(1), SOFT, reduction="batchmean")),
    "one value in a dimension": Case(lambda x: F.cross_entropy(x, TARGET).unsqueeze(0)),
    "binary of p": Case(lambda x: F.binary_cross_entropy(x.sigmoid(), SOFT, WEIGHT.expand(N, C)), 9, True),
}


def moved(case: Case, x: list[float]) -> tuple[float, Tensor]:
    """The loss and its gradient in the moved row, as torch computes them in float64."""
    logits = LOGITS.clone()
    (logits.view(-1, 1) if case.elements else logits)[case.row] = torch.tensor(x, dtype=torch.float64)
    logits.requires_grad_()
    loss = case.loss(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    return float(loss.detach()), (gradient.view(-1, 1) if case.elements else gradient)[case.row]


def check(reader: Reader, case: Case) -> None:
    """The page sums float64 in another order than torch: a few units of 1e-16 of numbers below 1e3."""
    loss, gradient = moved(case, reader.logits())
    assert reader.number("#value") == pytest.approx(loss, rel=1e-12, abs=1e-13)
    shown = reader.gradient()[1:] if case.elements else reader.gradient()
    assert shown == pytest.approx(gradient.tolist(), rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_a_moved_logit_gives_what_torch_gives(reader, tmp_path, name):
    case = CASES[name]
    before = xent.explain(case.loss(LOGITS.clone().requires_grad_()))
    reader.open(before.save(tmp_path / "x.html"))
    assert reader.number("#value") == before.nats
    reader.choose_row(case.row)
    check(reader, case)
    slider = reader.all("#classes input[type=range]")[-1]
    started = reader.logits()
    reader.drag(slider, 0.8)
    assert reader.logits()[-1] > started[-1] + 1
    check(reader, case)
    reader.keys("\ue012", "\ue012", "\ue00f")  # arrow left, arrow left, page down
    check(reader, case)
    reader.one("#reset").click()
    assert reader.logits() == started
    assert reader.number("#value") == before.nats
    assert reader.complaints() == []


def test_p_surprisal_and_length_of_a_row(reader, tmp_path):
    explanation = xent.explain(F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET))
    reader.open(explanation.save(tmp_path / "x.html"))
    reader.choose_row(0)
    reader.drag(reader.all("#classes input[type=range]")[0], 0.9)
    log_p = torch.tensor(reader.logits(), dtype=torch.float64).log_softmax(0)
    assert reader.numbers("#classes .p output") == pytest.approx(log_p.exp().tolist(), rel=1e-12)
    assert reader.number("#p") == pytest.approx(float(log_p[1].exp()), rel=1e-12)
    assert reader.number("#nats") == pytest.approx(-float(log_p[1]), rel=1e-12)
    assert reader.number("#bits") == pytest.approx(-float(log_p[1]) / math.log(2), rel=1e-12)
    assert reader.number("#adds") == pytest.approx(-float(log_p[1]) / 5, rel=1e-12)
    own = reader.one("#classes tr.own")
    assert "target" in own.text
    drawn = own.find_element("css selector", ".p i").get_attribute("style")
    assert float(drawn.split("--share:")[1].strip(" ;")) == pytest.approx(float(log_p[1].exp()), rel=1e-9)


def test_the_areas_are_the_loss(reader, tmp_path):
    """Heights and widths of the bars, read back in pixels, make the mean: to a pixel in 190."""
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET, WEIGHT)
    reader.open(xent.explain(loss).save(tmp_path / "x.html"))
    for _ in range(2):
        boxes = reader.js(
            "const boxes = [...document.querySelectorAll('#areas rect')].map((r) => r.getBBox());"
            "return boxes.map((b) => [b.width, b.height])"
        )
        level, axis = (float(reader.one(f"#areas line.{kind}").get_attribute("y1")) for kind in ("level", "axis"))
        total = sum(width for width, _ in boxes)
        assert len(boxes) == 5  # the ignored row has no area
        assert sum(width * height for width, height in boxes) == pytest.approx(total * (axis - level), rel=0.02)
        reader.drag(reader.all("#classes input[type=range]")[2], 0.1)


def test_the_temperature_divides_the_logits_of_every_row(reader, tmp_path):
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET, label_smoothing=0.1)
    reader.open(xent.explain(loss).save(tmp_path / "x.html"))
    reader.js("document.getElementById('temperature').focus()")
    reader.keys("\ue014" * 5)  # arrow right
    T = reader.number("#temperature-words")
    assert pytest.approx(2 ** (5 / 4)) == T
    expected = F.cross_entropy(LOGITS / T, TARGET, label_smoothing=0.1)
    assert reader.number("#value") == pytest.approx(float(expected), rel=1e-12)
    reader.keys("\ue011")  # home
    expected = F.cross_entropy(LOGITS * 4, TARGET, label_smoothing=0.1)
    assert reader.number("#value") == pytest.approx(float(expected), rel=1e-12)


def test_many_rows_and_classes_stay_exact_and_small(reader, tmp_path):
    """300 × 1000: ten classes, the target and one rest; 56 rows, the others in groups that the temperature moves."""
    x = 2 * torch.randn(300, 1000, generator=GENERATOR, dtype=torch.float64)
    y = torch.randint(1000, (300,), generator=GENERATOR)
    path = xent.explain(F.cross_entropy(x.clone().requires_grad_(), y, label_smoothing=0.1)).save(tmp_path / "x.html")
    assert path.stat().st_size < 500_000
    reader.open(path)
    reader.choose_row(3)
    reader.drag(reader.all("#classes input[type=range]")[4], 0.95)
    names = [element.text for element in reader.all("#classes tr:not(.rest) bdi")]
    x[3, [int(name) for name in names]] = torch.tensor(reader.logits(), dtype=torch.float64)
    x.requires_grad_()
    loss = F.cross_entropy(x, y, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, x)
    assert reader.number("#value") == pytest.approx(float(loss.detach()), rel=1e-12)
    shown = gradient[3, [int(name) for name in names]].tolist()
    assert reader.gradient() == pytest.approx([*shown, float(gradient[3].sum()) - sum(shown)], rel=1e-9, abs=1e-15)
    reader.js("document.getElementById('temperature').focus()")
    reader.keys("\ue012" * 3)  # arrow left
    T = reader.number("#temperature-words")
    number_of_others = 300 - int(reader.one("#some").text.split(" ")[0])
    assert f"{number_of_others} paler rows" in reader.one("#areas-words").text
    expected = F.cross_entropy(x.detach() / T, y, label_smoothing=0.1)
    assert reader.number("#value") == pytest.approx(float(expected), rel=1e-12)


def test_exp_overflows_without_the_maximum_as_in_float32(reader, tmp_path):
    x = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)
    reader.open(xent.explain(F.cross_entropy(x, torch.tensor([0]))).save(tmp_path / "x.html"))
    assert reader.number("#naive") == pytest.approx(float(F.cross_entropy(x.detach(), torch.tensor([0]))), rel=1e-6)
    shift = "const s = document.getElementById('shift'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    for added, subtracted in (
        (87, True),
        (100, True),
        (-110, True),
        (0, False),
        (86, False),
        (87, False),
        (-110, False),
    ):
        if reader.one("#subtract").is_selected() != subtracted:
            reader.one("#subtract").click()
        reader.js(shift, added)
        z = x.detach() + added
        e = (z - z.max()).exp() if subtracted else z.exp()
        expected = float(-(e[0, 0] / e.sum()).log())
        got = reader.number("#naive")
        assert (
            (got == expected) or (math.isnan(got) and math.isnan(expected)) or got == pytest.approx(expected, rel=1e-5)
        )
        assert reader.number("#total") == pytest.approx(float(e.sum()), rel=1e-6)
        assert ("no number" in reader.one("#overflow-words").text) == math.isnan(expected)
    assert "NaN" in reader.one("#naive").text


def test_predict_then_reveal(reader, tmp_path):
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET)
    reader.open(xent.explain(loss).save(tmp_path / "x.html"))
    reader.choose_row(0)
    p = reader.number("#p")
    reader.one("#guess-toggle").click()
    assert not any(element.is_displayed() for element in reader.all("#p, #value, #classes .p output, #areas, #receipt"))
    assert reader.focused() == "guess-p"
    reader.keys("0.5", "\ue004", f"{-math.log(p):.4f}", "\ue007")  # tab, enter
    said = reader.one("#guess-words").text
    assert f"p: you said 0.5000, it is {p:.4f}" in said
    assert "right to two digits" in said
    assert all(element.is_displayed() for element in reader.all("#p, #value, #areas, #receipt"))
    reader.one("#next").click()
    assert not reader.one("#p").is_displayed()
    reader.one("#guess-toggle").click()
    assert reader.one("#p").is_displayed()


def test_the_keyboard_alone_reaches_and_moves_everything(reader, tmp_path):
    loss = F.cross_entropy(LOGITS[:2].clone().requires_grad_(), TARGET[:2])
    reader.open(xent.explain(loss).save(tmp_path / "x.html"))
    seen = []
    for _ in range(24):
        reader.keys("\ue004")
        seen.append(reader.focused())
        ring = reader.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", seen[-1]
        if seen[-1] == "subtract":
            break
    sliders = [f"logit of {number}" for number in range(C)]
    typed = [f"logit of {number}, as a number" for number in range(C)]
    pairs = [label for pair in zip(sliders, typed, strict=True) for label in pair]
    first = ["to the receipt", "theme", "row", "order", "previous", "next", "guess-toggle"]
    assert [label.replace("switch between light and dark", "theme") for label in seen] == [
        *first,
        *pairs,
        "temperature",
        "subtract",
    ]
    reader.js("document.querySelector('.typed').select()")
    reader.keys("−1.5", "\ue004")
    assert reader.logits()[0] == -1.5
    assert reader.focused() == "logit of 1"
    unlabelled = (
        "const named = (e) => e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby') || e.textContent;"
        "return [...document.querySelectorAll('input,select,button,svg,canvas')].filter((e) => !named(e)).length"
    )
    assert reader.js(unlabelled) == 0


BAD = (
    "<script>window.hit = 1</script>", '"><img src=x onerror="window.hit=1">', "</script><script>window.hit=1</script>",
    "\u202egnp.exe", "nul\x00 \x1b[31mred\x07", "\ud800 alone", "{{7*7}}", "NaN", "مرحبا", "<!--", "a" * 500,
)  # fmt: skip


def test_an_ignored_row_is_divided_by_nothing(reader, tmp_path):
    reader.open(xent.explain(F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET)).save(tmp_path / "x.html"))
    reader.choose_row(0)
    assert reader.one("#share-head").text == "÷ 5"
    reader.choose_row(3)
    assert reader.one("#share-head").text == ""


def test_a_name_of_300_letters_leaves_room_for_the_numbers(reader, tmp_path):
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET)
    reader.open(xent.explain(loss, class_names=["b" * 300] * C).save(tmp_path / "x.html"))
    right = "return arguments[0].getBoundingClientRect().right"
    wide, *_ = reader.all("#receipt .xent-wide")
    headers = reader.all("#receipt .xent-wide th")
    gradient = next(header for header in headers if header.text.startswith("p−y"))
    assert reader.js(right, gradient) <= reader.js(right, wide)


def test_text_of_the_caller_is_only_text(reader, tmp_path):
    x = torch.randn(len(BAD), len(BAD), generator=GENERATOR).requires_grad_()
    loss = F.cross_entropy(x, torch.arange(len(BAD)))
    path = xent.explain(loss, class_names=BAD, row_names=BAD).save(tmp_path / "<b>&'.html")
    content = path.read_text("utf-8")
    assert not set(content) & {"\u202e", "\x00", "\x1b", "\x07", "\ud800"}
    reader.open(path)
    for place in range(len(BAD)):
        reader.choose_row(place)
    assert reader.js("return window.hit") is None
    assert reader.all("img") == []
    names = [element.text for element in reader.all("#classes bdi")]
    assert names[0] == BAD[0]
    assert names[3] == "⟨U+202E⟩gnp.exe"
    assert names[4] == "nul⟨U+0000⟩ ⟨U+001B⟩[31mred⟨U+0007⟩"
    assert names[6:8] == ["{{7*7}}", "NaN"]
    assert reader.js("return getComputedStyle(document.querySelector('#classes bdi')).unicodeBidi") == "isolate"
    assert reader.complaints() == []


def test_the_policy_of_the_page_holds(reader, tmp_path):
    """A script, a style, an image or a request that is not the page's own is refused."""
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET)
    reader.open(xent.explain(loss).save(tmp_path / "x.html"))
    assert reader.complaints() == []
    reader.js(
        "const add = (tag, set) => document.body.append(Object.assign(document.createElement(tag), set));"
        "try { add('script', {text: 'window.hit = 1'}) } catch (error) { window.typed = error.name };"
        "add('style', {textContent: 'body { color: red }'}); add('img', {src: 'x.png'});"
    )
    fetched = "const done = arguments[0]; fetch('x.json').then(() => done('loaded'), () => done('refused'))"
    assert reader.driver.execute_async_script(fetched) == "refused"
    assert reader.js("return window.hit") is None
    assert reader.js("return window.typed") == "TypeError"
    assert reader.js("return getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    refused = [entry for entry in reader.complaints() if "Content Security Policy" in entry]
    assert len(refused) >= 3


def test_a_loss_that_can_not_be_moved_says_so(reader, tmp_path):
    """√ of a sum of squares, two rows of one table, a constant nobody kept, and no log-probabilities."""
    x = LOGITS.clone().requires_grad_()
    each = F.cross_entropy(x, TARGET, reduction="none")
    log_p = x.log_softmax(1)
    losses = {
        "no weighted sum": each.square().sum().sqrt(),
        "same logits": -(log_p[[0, 0], [1, 2]]).sum(),
        "do not add up": each.mean() + 3,
        "not log-probabilities": F.nll_loss(x, TARGET),
    }
    for words, loss in losses.items():
        reader.open(xent.explain(loss).save(tmp_path / "x.html"))
        assert reader.one("#fixed").text.startswith("No sliders here: ")
        assert words in reader.one("#fixed").text
        assert not reader.one("#moving").is_displayed()
        assert reader.one("#receipt").is_displayed()
        assert reader.complaints() == []


def test_a_loss_of_infinity_is_moved_back_to_a_number(reader, tmp_path):
    x = LOGITS.clone()
    x[0, 1] = -torch.inf  # the target's
    reader.open(xent.explain(F.cross_entropy(x.clone().requires_grad_(), TARGET)).save(tmp_path / "x.html"))
    assert reader.number("#value") == math.inf
    reader.choose_row(0)
    assert reader.logits()[1] == -math.inf
    reader.all("#classes input[type=range]")[1].send_keys("\ue011", "\ue014")  # home, arrow right
    x[0] = torch.tensor(reader.logits(), dtype=torch.float64)
    assert reader.number("#value") == pytest.approx(float(F.cross_entropy(x, TARGET)), rel=1e-12)


def test_several_losses_are_chosen_one_by_one(reader, tmp_path):
    x = LOGITS.clone().requires_grad_()
    loss = F.cross_entropy(x, TARGET) + 0.1 * F.binary_cross_entropy_with_logits(x, HIT)
    reader.open(xent.explain(loss).save(tmp_path / "x.html"))
    assert "held" in reader.one("#held").text
    reader.js("const t = document.getElementById('term'); t.value = '1'; t.dispatchEvent(new Event('change'))")
    reader.choose_row(0)
    reader.drag(reader.one("#classes input[type=range]"), 0.9)
    y = LOGITS.clone()
    y[0, 0] = reader.logits()[0]
    expected = F.cross_entropy(LOGITS, TARGET) + 0.1 * F.binary_cross_entropy_with_logits(y, HIT)
    assert reader.number("#value") == pytest.approx(float(expected), rel=1e-12)


def test_light_dark_narrow_and_still(reader, tmp_path):
    loss = F.cross_entropy(LOGITS.clone().requires_grad_(), TARGET)
    path = xent.explain(loss, class_names=["a long name of a class", "b" * 60, "c", "d"]).save(tmp_path / "x.html")
    reader.open(path)
    paper = "return getComputedStyle(document.body).backgroundColor"
    colours = []
    for scheme in ("light", "dark"):
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.append(reader.js(paper))
    assert colours[0] != colours[1]
    reader.one("#theme").click()
    assert reader.js(paper) == colours[0]
    for label in reader.all("#receipt .label"):
        assert reader.js("return arguments[0].scrollWidth <= arguments[0].clientWidth", label), label.text
    moving = "return getComputedStyle(document.querySelector('.bar i')).transitionDuration"
    assert reader.js(moving) == "0s"
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    reader.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        reader.open(path)
        assert reader.js("return document.documentElement.scrollWidth") <= 360
    finally:
        reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
