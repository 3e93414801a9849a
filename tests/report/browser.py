"""A page in headless Chromium, read and moved as its reader does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIMIT = 120.0  # seconds, only to end what hangs: a busy machine may be slow


@contextmanager
def chromium() -> Iterator[Any]:
    """A driver of Debian's chromium; the test is skipped where it is not installed."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        missing = ", ".join(name for name, path in found.items() if path is None)
        pytest.skip(f"{missing} not on PATH: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = found["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(found["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


class Reader:
    """Opens pages, moves what is on them, reads numbers back whole."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.resolve().as_uri())

    def complaints(self) -> list[str]:
        """What the console says, and every request but that of the page itself."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if url != self.driver.current_url.partition("#")[0] and not url.startswith("data:"):
                    said.append(f"requested {url}")
        return said

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def number(self, selector: str) -> float:
        """The whole number behind one that is shown."""
        return as_float(self.one(selector).get_attribute("data-value"))

    def numbers(self, selector: str) -> list[float]:
        texts = self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.dataset.value)", selector)
        return [as_float(text) for text in texts]

    def logits(self) -> list[float]:
        return self.numbers(".typed")

    def gradient(self) -> list[float]:
        """∂ loss / ∂ logit of the classes that are shown, the rest's last if there is one."""
        return self.numbers("#classes .share")

    def choose_row(self, number: int) -> None:
        """Choose a row by its place on the page."""
        self.js(
            "const row = document.getElementById('row'), order = document.getElementById('order');"
            "order.value = 'first'; order.dispatchEvent(new Event('change'));"
            "row.value = String(arguments[0]); row.dispatchEvent(new Event('change'))",
            number,
        )

    def drag(self, slider: Any, to: float) -> None:
        """Press on a slider's thumb and pull it to a share of its width."""
        from selenium.webdriver import ActionChains

        self.js("arguments[0].scrollIntoView({block: 'center'})", slider)
        width = slider.size["width"]
        at = self.js("const s = arguments[0]; return (s.value - s.min) / (s.max - s.min)", slider)
        start = (at - 0.5) * (width - 16)
        chain = ActionChains(self.driver).move_to_element_with_offset(slider, int(start), 0).click_and_hold()
        chain.move_by_offset(int((to - at) * (width - 16)), 0).release().perform()

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """What has the focus: its id, or its label."""
        return self.js("const e = document.activeElement; return e.id || e.ariaLabel || e.textContent")


def as_float(text: str) -> float:
    return float(text.replace("Infinity", "inf").replace("NaN", "nan"))
