"""The pages in a real browser, before 10,000 actors and 1,000,000 tasks."""

import asyncio
import queue
import threading

import browser
import pytest
from fed_cluster import FedCluster, FedSource, with_dashboard

pytestmark = [
    pytest.mark.skipif(bool(browser.missing()), reason=f"no browser: {browser.missing()}"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def large():
    """A dashboard before 10,000 actors and 1,000,000 finished tasks: the login link, the source."""
    cluster = FedCluster(20)
    cluster.wait(1000)
    for i in range(10_000):
        cluster.actor_up(f"Class{i % 50}", f"actor-{i}")
    workers = [cluster.executor(i) for i in range(8)]
    for i in range(200):
        cluster.ran(workers[i % 8], f"task_{i % 7}", 5_000, took=1e-4)
    made, over = queue.Queue(), threading.Event()

    async def story(scheduler, dashboard, source, fetch):
        made.put(dashboard)
        await asyncio.to_thread(over.wait)

    source = FedSource(cluster)
    source.history.sample(cluster.time)
    thread = threading.Thread(target=with_dashboard, args=(story, False, source, 1000))
    thread.start()
    yield made.get(timeout=60)
    over.set()
    thread.join(60)


def test_pages_of_10_000_actors_and_1_000_000_tasks_are_sent_in_pieces(large, chromium):
    context = chromium.new_context(viewport=browser.LAPTOP)
    context.set_default_timeout(browser.PATIENCE_MS)
    watched = browser.Watched(context)
    page = watched.page
    sent = []

    def note(response):
        if "/ract/data/" in response.url and response.ok:
            value = response.json()["value"]
            if isinstance(value, dict) and "rows" in value:
                sent.append((response.url, len(value["rows"])))

    page.on("response", note)
    page.goto(large.login_url())
    page.wait_for_selector(".tile")
    tile = page.locator(".tile[data-tile='Calls finished'] .value")
    browser.wait_for(page, lambda: tile.inner_text() == "1,000,000", tile.inner_text)
    page.goto(f"http://{large.address}/ract/actors")
    table = browser.rows(page, "Actors")
    table.locator("tbody tr").first.wait_for()
    assert "10,000" in table.locator(".count").inner_text()
    assert table.locator("tbody tr").count() == 25
    shown = table.locator("tbody tr").first.get_attribute("data-row")
    page.get_by_label("Next page").click()
    browser.wait_for(
        page,
        lambda: table.locator("tbody tr").first.get_attribute("data-row") != shown,
        lambda: "the page is not turned",
    )
    assert "2 / 400" in table.locator(".pager").inner_text()
    page.get_by_label("Search Actors").fill("actor-4711")
    browser.wait_for(page, lambda: table.locator("tbody tr").count() == 1, lambda: "not searched")
    page.goto(f"http://{large.address}/ract/tasks?page=1000#calls")
    calls = page.locator("#calls")
    calls.locator("tbody tr").first.wait_for()
    assert "1,001 /" in calls.locator(".pager").inner_text()
    assert "more are forgotten" in calls.locator(".count").inner_text()
    assert sent
    assert max(count for _, count in sent) <= 25
    assert watched.problems == []
    context.close()
