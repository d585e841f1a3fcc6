"""What the tests in a browser share."""

import browser
import pytest


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = browser.launch(playwright)
        yield opened
        opened.close()
