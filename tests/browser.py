"""A page in Debian's Chromium, on a desktop's width or on a phone's, and what went wrong in it.

With MOON2_SCREENSHOTS=<folder> every state that a test names is also kept as a PNG, to be looked at.
"""

import os
import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


class Visit:
    """One visit to a page.

    Attributes:
        tab: Playwright's page.
        foreign: every address outside of the page's own that the browser asked for.
        failures: errors of the page's scripts.
    """

    def __init__(self, browser, address: str, size: str):
        width, height = SIZES[size]
        self.size, self.foreign, self.failures = size, [], []
        self.tab = browser.new_page(viewport={"width": width, "height": height})
        self.tab.on("request", lambda request: self._note(request.url, address))
        self.tab.on("pageerror", lambda error: self.failures.append(str(error)))
        self.tab.goto(address)

    def _note(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.foreign.append(url)

    def keep(self, state: str) -> None:
        folder = os.environ.get("MOON2_SCREENSHOTS")
        if folder:
            self.tab.wait_for_timeout(300)  # for what is still fading in
            self.tab.screenshot(path=Path(folder) / f"{self.size}-{state}.png", full_page=True)

    def fits(self) -> bool:
        """Whether nothing sticks out at the side."""
        return self.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def close(self) -> None:
        self.tab.close()
        assert not self.foreign, "the page loads nothing from elsewhere"
        assert not self.failures
