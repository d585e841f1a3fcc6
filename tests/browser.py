"""A real browser for tests: Debian's (or another) Chromium, driven by Playwright."""

import importlib.util
import os
import shutil
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 120_000
"""A busy machine takes its time; a test that fails waits for so long."""

LAPTOP = {"width": 1366, "height": 768}


def executable():
    """The browser's path, "" if there is none; ``$RACT_CHROMIUM`` names another one."""
    given = os.environ.get("RACT_CHROMIUM", "")
    return given or next(filter(None, map(shutil.which, NAMES)), "")


def missing():
    """What there is not, and how to get it; "" if all is there."""
    if importlib.util.find_spec("playwright") is None:
        return "the package playwright is not installed: pip install playwright"
    if not executable():
        return (
            f"none of {', '.join(NAMES)} is on the PATH: apt-get install chromium, "
            "or say where it is in RACT_CHROMIUM"
        )
    return ""


def launch(playwright):
    """A browser. As root it has to do without its own sandbox."""
    sandbox = [] if os.getuid() else ["--no-sandbox"]
    return playwright.chromium.launch(
        executable_path=executable(), args=[*ARGUMENTS, *sandbox], timeout=60_000
    )


class Watched:
    """A page, and what went wrong on it.

    Args:
        context: Of the browser.
    """

    def __init__(self, context):
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.problems = []
        self.rows_sent = []  #: (path, rows) of each answer with rows
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"console {message.type}: {message.text}")

    def _failed(self, request):
        # What was under way when the page was left is not a failure.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"failed: {request.url}: {request.failure}")

    def _answered(self, response):
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")


def rows(page, title):
    """The table with this heading: its rows, as text."""
    return page.locator("section.table", has=page.get_by_role("heading", name=title, exact=True))


def wait_for(page, check, what):
    """Until ``check()`` holds; the page goes on meanwhile."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not check():
        assert time.monotonic() < end, what()
        page.wait_for_timeout(100)
