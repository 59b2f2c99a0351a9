"""What a person does with the list of connections and its form, and the pictures that are taken of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent.parent / "docs" / "images"
CONN_ID = "agentforce_default"
KIND = "Salesforce Agentforce"
_TYPED = """
form => [...form.querySelectorAll('input[type=text], textarea')].map(one => one.value || one.placeholder)
"""
# A part of the form that is being closed has its words still.
_AT_REST = """
shown => Promise.allSettled(
  shown.getAnimations({subtree: true})
    .filter(one => one.effect.getTiming().iterations !== Infinity)
    .map(one => one.finished)
)
"""
# What a page shows differently each time, and what its words take it for.
_SAME = {
    r"\d{4}-\d\d-\d\d [\d:]+": "TIME",
    r"[A-Z][a-z]{2} \d+, \d{4}, \d+:\d\d:\d\d\s[AP]M": "TIME",
    r"(?m)\b\d+\.\d s\b|^\d+ min$": "SECONDS",
    r"\d+:\d\d:\d\d\s[AP]M": "TIME",
    r"[0-9a-f]{8}-[0-9a-f-]{27}": "SESSION",
    r"manual__[^/\s]+": "RUN",
}


class Form:
    """The page Admin > Connections and the form of one connection."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.dialog = page.get_by_role("dialog")

    def add(self) -> None:
        """Open the form for a new connection and choose the type by its name."""
        self.page.goto("/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        self.field("connection_id").fill(CONN_ID)
        self.dialog.get_by_role("combobox").click()
        self.page.get_by_role("option", name=KIND, exact=True).click()

    def edit(self) -> None:
        """Open the form of the connection that was saved."""
        self.page.goto("/connections")
        self.page.get_by_role("button", name="Edit Connection").click()

    def test(self) -> None:
        """Press the Test button of the list."""
        self.page.goto("/connections")
        self.page.get_by_role("button", name="Test Connection").click()

    def field(self, name: str) -> Any:
        """Return the input of a standard field."""
        return self.dialog.locator(f'[name="{name}"]')

    def extra_field(self, name: str) -> Any:
        """Return the input of an extra."""
        return self.field(f"element_{name}")

    def open_part(self, name: str) -> None:
        """Open one of the form's three parts, unless it is open."""
        head = self.dialog.get_by_role("button", name=name, exact=True)
        if head.get_attribute("aria-expanded") != "true":
            head.click()

    def fill(self, org: Any) -> None:
        """Fill in what a connection to the emulator needs."""
        self.field("host").fill(org.url)
        self.field("port").fill(org.url.rpartition(":")[2])
        self.field("login").fill(org.consumer_key)
        self.field("password").fill(org.consumer_secret)

    def fill_extras(self, **extras: Any) -> None:
        """Open the part of the extras and fill them in."""
        self.open_part("Extra Fields")
        for name, value in extras.items():
            self.extra_field(name).fill(value)

    def save(self) -> None:
        """Save, and wait until the form is gone."""
        self.dialog.get_by_role("button", name="Save").click()
        self.dialog.wait_for(state="hidden")

    def notice(self, title: str) -> Any:
        """Return the message with this title, with the pointer on it, so that it stays."""
        found = self.page.get_by_role("status").filter(has_text=title)
        found.hover()
        self.page.get_by_role("tooltip").wait_for(state="hidden")
        return found


class Pictures:
    """The pictures of the documents: taken anew when asked for, else held to the words that they show.

    :param page: the tab.
    :param same: what differs from run to run, and what to take it for.
    """

    def __init__(self, page: Any, same: dict[str, str]) -> None:
        self._page = page
        self._same = {**_SAME, **{rf"\b{re.escape(text)}\b": shown for text, shown in same.items()}}

    @staticmethod
    def wanted() -> bool:
        """Tell whether the pictures are to be taken anew."""
        return os.environ.get("AGENTFORCE_SCREENSHOTS") == "1"

    def take(self, name: str, *shown: Any, margin: int = 0) -> None:
        """Take the picture *name* of the box around the elements *shown*; hold it to its words.

        :param margin: pixels around the box.
        """
        for one in shown:
            one.evaluate(_AT_REST)
        words = "\n".join(self._words(one) for one in shown) + "\n"
        noted = HERE / "words" / f"{name}.txt"
        if self.wanted():
            noted.write_text(words)
            path = IMAGES / f"{name}.png"
            self._page.screenshot(path=path, clip=self._around(shown, margin), animations="disabled")
        assert noted.read_text() == words, f"docs/images/{name}.png is out of date: make screenshots"

    def _words(self, one: Any) -> str:
        text = "\n".join([*one.inner_text().splitlines(), *one.evaluate(_TYPED)])
        for pattern, same in self._same.items():
            text = re.sub(pattern, same, text)
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())

    def _around(self, shown: tuple[Any, ...], margin: int) -> dict[str, float]:
        boxes = [one.bounding_box() for one in shown]
        size = self._page.viewport_size
        left = max(0, min(box["x"] for box in boxes) - margin)
        top = max(0, min(box["y"] for box in boxes) - margin)
        right = min(size["width"], max(box["x"] + box["width"] for box in boxes) + margin)
        bottom = min(size["height"], max(box["y"] + box["height"] for box in boxes) + margin)
        return {"x": left, "y": top, "width": right - left, "height": bottom - top}
