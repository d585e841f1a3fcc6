"""The pages in a real browser, beside three nodes at work."""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import browser
import pytest

import ract
from ract.compat.ported.cluster_utils import Cluster
from ract.util import placement_group
from ract.util.state import (
    get_actor,
    list_actors,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_tasks,
    list_workers,
    summarize_tasks,
)

pytestmark = [
    pytest.mark.skipif(bool(browser.missing()), reason=f"no browser: {browser.missing()}"),
    pytest.mark.timeout(400),
]

NODES = ("head", "left", "right")
PAGES = ("overview", "nodes", "actors", "tasks", "memory", "groups", "jobs", "logs")


@ract.remote
def work(i):
    time.sleep(0.01)
    if i % 10 == 9:
        raise ValueError(f"item {i} is bad")
    return i


@ract.remote(num_cpus=0, max_restarts=1)
class Counter:
    def __init__(self):
        self.n = 0

    def add(self):
        self.n += 1
        return self.n

    def say(self, text):
        print(text, flush=True)

    def crash(self):
        os._exit(7)


class Busy:
    """A driver that works until it is told to pause."""

    def __init__(self):
        self.counters = [Counter.options(name=f"counter-{i}").remote() for i in range(3)]
        self.doomed = Counter.options(name="doomed").remote()
        self.group = placement_group([{"CPU": 0.1}] * 2, name="pair")
        assert self.group.wait(30)
        self.big = ract.put(bytes(3_000_000))
        self._goes_on = threading.Event()
        self._is_idle = threading.Event()
        self._ends = False
        self.go_on()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        i = 0
        while not self._ends:
            if not self._goes_on.is_set():
                self._is_idle.set()
                self._goes_on.wait()
                continue
            refs = [work.remote(i * 10 + k) for k in range(10)]
            refs += [counter.add.remote() for counter in self.counters for _ in range(5)]
            for ref in refs:
                try:
                    ract.get(ref, timeout=60)
                except ValueError:
                    pass
            i += 1

    def pause(self):
        """Returns when nothing runs any more, and all of it is known."""
        self._is_idle.clear()
        self._goes_on.clear()
        assert self._is_idle.wait(60)

    def go_on(self):
        self._goes_on.set()

    def end(self):
        self._ends = True
        self._goes_on.set()
        self._thread.join(60)


@pytest.fixture(scope="module")
def cluster():
    head = {"num_cpus": 2, "include_dashboard": True, "node_name": "head"}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.extra = [made.add_node(num_cpus=1, node_name=name) for name in NODES[1:]]
    ract.init(address=made.address)
    try:
        made.busy = Busy()
        yield made
    finally:
        if hasattr(made, "busy"):
            made.busy.end()
        ract.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def context(cluster, chromium):
    """Somebody who followed the link that was printed."""
    made = chromium.new_context(viewport=browser.LAPTOP, color_scheme="light")
    made.set_default_timeout(browser.PATIENCE_MS)
    page = made.new_page()
    page.goto(cluster.head_node.dashboard_url)
    assert page.url.endswith("/ract/overview"), "the key is not left in the address"
    page.close()
    return made


@pytest.fixture
def watched(context):
    """A page on which nothing may go wrong."""
    made = browser.Watched(context)
    yield made
    made.page.close()
    assert made.problems == []


def address(cluster, path):
    return cluster.head_node.dashboard_url.partition("/ract/")[0] + f"/ract/{path}"


# --------------------------------------------------------------------------- all pages


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_fits_a_laptop_and_nothing_goes_wrong(cluster, watched, name):
    page = watched.page
    page.goto(address(cluster, name))
    page.wait_for_selector("section.panel h2")
    assert page.locator("nav a.here").get_attribute("href") == name
    assert page.locator("nav a").count() == len(PAGES)
    assert page.locator("a[href='/status']").is_visible()
    if name != "logs":
        page.wait_for_selector("tbody tr")
    for plot in page.locator("[data-plot]").all():
        plot.locator("canvas").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= browser.LAPTOP["width"]
    before = len(watched.problems)
    page.wait_for_timeout(2500)  # an update or two, which must not complain
    assert len(watched.problems) == before
    assert page.locator("#trouble").inner_text() == ""


def test_page_is_not_shown_to_who_has_no_link(cluster, chromium):
    stranger = chromium.new_context()
    stranger.set_default_timeout(browser.PATIENCE_MS)
    page = stranger.new_page()
    answer = page.goto(address(cluster, "overview"))
    assert answer.status == 401
    assert "token" in page.locator("body").inner_text()
    used = page.goto(cluster.head_node.dashboard_url)
    assert used.status == 401, "the link works once"
    stranger.close()


def test_tables_link_to_what_they_name(cluster, watched):
    page = watched.page
    for name, cell, target in (
        ("nodes", "td[data-key=node] a", "node"),
        ("actors", "td[data-key=class_name] a", "actor"),
        ("tasks#calls", "#calls td[data-key=task_id] a", "task"),
        ("groups", "td[data-key=name] a", "group"),
        ("memory", "td[data-key=object_id] a", "object"),
        ("jobs", "td[data-key=job] a", "job"),
    ):
        page.goto(address(cluster, name))
        link = page.locator(cell).first
        link.wait_for()
        link.click()
        page.wait_for_url(f"**/ract/{target}?id=*")
        page.wait_for_selector("dl dd")
        assert page.locator(".empty.error:visible").count() == 0


def test_a_page_of_one_thing_is_headed_with_its_name_not_its_nodes(cluster, watched):
    page = watched.page
    [job] = list_jobs()
    [call] = list_tasks(filters=[("name", "=", "work"), ("state", "=", "FINISHED")], limit=1)
    for path, headings in (
        (f"job?id={job.job_id}", {"Job", f"Job {job.entrypoint}"}),
        (f"task?id={call.task_id}", {"Task work"}),
        (f"node?id={call.node_id}", {f"Node {name}({call.node_id[:8]})" for name in NODES}),
    ):
        page.goto(address(cluster, path))
        page.wait_for_selector("dl dd")
        assert page.locator(".facts h2").inner_text() in headings


# --------------------------------------------------------------------------- numbers


def test_overview_shows_the_numbers_of_the_state_api(cluster, watched):
    cluster.busy.pause()
    try:
        page = watched.page
        page.goto(address(cluster, "overview"))

        def truth():
            names = summarize_tasks()["cluster"]["summary"].values()
            counts = [entry["state_counts"] for entry in names]
            alive = [actor for actor in list_actors() if actor.state == "ALIVE"]
            return {
                "Nodes": str(len(list_nodes())),
                "Calls finished": f"{sum(each.get('FINISHED', 0) for each in counts):,}",
                "Calls failed": f"{sum(each.get('FAILED', 0) for each in counts):,}",
                "Actors alive": str(len(alive)),
                "Jobs running": str(len(list_jobs())),
            }

        def shown():
            tiles = {
                tile.get_attribute("data-tile"): tile.locator(".value").inner_text()
                for tile in page.locator(".tile").all()
            }
            return {name: tiles.get(name) for name in truth()}

        page.wait_for_selector(".tile")
        browser.wait_for(page, lambda: shown() == truth(), lambda: (shown(), truth()))
        assert int(truth()["Calls failed"].replace(",", "")) > 0
    finally:
        cluster.busy.go_on()


def test_tables_show_what_the_state_api_lists(cluster, watched):
    page = watched.page
    for name, title, listed in (
        ("actors", "Actors", {actor.actor_id for actor in list_actors()}),
        ("groups", "Placement groups", {g.placement_group_id for g in list_placement_groups()}),
        ("jobs", "Jobs", {job.job_id for job in list_jobs()}),
        ("nodes", "Nodes", {node.node_id for node in list_nodes()}),
    ):
        page.goto(address(cluster, name))
        found = browser.rows(page, title).locator("tbody tr")
        found.first.wait_for()
        assert {row.get_attribute("data-row") for row in found.all()} == listed, name


def test_memory_shows_objects_with_sizes_and_holders(cluster, watched):
    page = watched.page
    page.goto(address(cluster, "memory"))
    ident = cluster.busy.big.hex()
    row = browser.rows(page, "Objects").locator(f"tr[data-row='{ident}']")
    row.wait_for()
    [known] = {o.object_size for o in list_objects() if o.object_id == ident}
    assert row.locator("[data-key=size]").inner_text() == f"{known / 2**20:.1f} MiB"
    assert f"driver {os.getpid()}" in row.locator("[data-key=holders]").inner_text()
    page.goto(address(cluster, f"object?id={ident}"))
    copy = browser.rows(page, "Where it lies").locator("tbody tr")
    copy.wait_for()
    assert "/dev/shm/" in copy.locator("[data-key=place]").inner_text()
    holder = browser.rows(page, "Who holds it").locator("tbody tr").first
    assert holder.locator("[data-key=pid]").inner_text() == str(os.getpid())


def test_tasks_show_progress_errors_with_tracebacks_and_a_stream(cluster, watched):
    page = watched.page
    page.goto(address(cluster, "tasks"))
    row = browser.rows(page, "Progress by function").locator("tr[data-row='NORMAL_TASK work']")
    row.wait_for()
    assert int(row.locator("[data-key=finished]").inner_text().replace(",", "")) > 0
    failure = (
        browser.rows(page, "Failures by error").locator("tbody tr", has_text="ValueError").first
    )
    failure.locator("button.open").click()
    more = page.locator("tr.more pre").first
    more.wait_for()
    assert "is bad" in more.inner_text()
    assert "Traceback" in more.inner_text()
    bars = """() => {
        const stream = Bokeh.documents[0]?.get_model_by_name("task-stream");
        return stream?.renderers[0].data_source.get_length();
    }"""
    browser.wait_for(page, lambda: (page.evaluate(bars) or 0) > 5, lambda: page.evaluate(bars))
    graph = """() => Bokeh.documents[0]?.get_model_by_name("task-graph")
        ?.renderers[2].data_source.get_array("name")"""
    browser.wait_for(
        page,
        lambda: {"driver", "work", "Counter.add"} <= set(page.evaluate(graph) or ()),
        lambda: page.evaluate(graph),
    )


# --------------------------------------------------------------------------- live


def test_actors_are_searched_and_filtered_and_the_address_remembers_it(cluster, watched):
    page = watched.page
    page.goto(address(cluster, "actors"))
    table = browser.rows(page, "Actors")
    table.locator("tbody tr").first.wait_for()
    every = table.locator("tbody tr").count()
    assert every >= 4
    page.get_by_label("Search Actors").fill("counter-1")
    browser.wait_for(page, lambda: table.locator("tbody tr").count() == 1, lambda: "not filtered")
    assert table.locator("td[data-key=name]").inner_text() == "counter-1"
    assert f"1 of {every}" in table.locator(".count").inner_text()
    assert "q=counter-1" in page.url
    page.reload()
    browser.wait_for(page, lambda: table.locator("tbody tr").count() == 1, lambda: "forgotten")
    assert page.get_by_label("Search Actors").input_value() == "counter-1"
    page.get_by_label("Search Actors").fill("no such thing")
    page.get_by_text("Nothing fits the filter.").wait_for()
    page.get_by_label("Search Actors").fill("")
    page.get_by_role("button", name="Name", exact=True).click()
    browser.wait_for(page, lambda: "sort=-name" in page.url, lambda: page.url)
    names = table.locator("td[data-key=name]")
    browser.wait_for(
        page,
        lambda: (
            names.all_inner_texts() == sorted(names.all_inner_texts(), reverse=True)
            and names.count() == every
        ),
        lambda: names.all_inner_texts(),
    )


def test_updates_keep_rows_selections_and_scrolling(cluster, watched):
    page = watched.page
    page.goto(address(cluster, "actors"))
    cell = page.locator("tr", has_text="counter-2").locator("td[data-key=calls]")
    cell.wait_for()
    page.evaluate("window.row = document.querySelector('tbody tr')")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('td[data-key=node]'))")
    selected = page.evaluate("String(getSelection())")
    before = cell.inner_text()
    browser.wait_for(page, lambda: cell.inner_text() != before, lambda: f"still {before} calls")
    assert page.evaluate("window.row.isConnected"), "the row was made anew"
    assert page.evaluate("String(getSelection())") == selected


def test_killed_actor_is_seen_dead_and_why_without_loading_anew(cluster, watched):
    page = watched.page
    doomed = cluster.busy.doomed
    ract.get(doomed.add.remote())
    ident = doomed._actor_id.hex()
    page.goto(address(cluster, f"actor?id={ident}"))
    state = page.locator("dd[data-key=state]")
    page.wait_for_selector("dd[data-key=state] .state.good")
    with pytest.raises(ract.exceptions.RayActorError):
        ract.get(doomed.crash.remote())
    page.locator("section.table").get_by_text("restart 1").wait_for()
    ract.get(doomed.add.remote())
    ract.kill(doomed)
    page.wait_for_selector("dd[data-key=state] .state.idle")
    assert state.inner_text() == "dead"
    death = page.locator("section.death")
    death.wait_for()
    assert death.locator("strong").inner_text() == "killed"
    assert get_actor(ident).state == "DEAD"

    def story():
        return browser.rows(page, "Story").locator("td[data-key=state]").all_inner_texts()

    browser.wait_for(page, lambda: story()[0] == "dead", story)  # it is asked for by itself
    assert "restarting" in story()


def test_log_is_followed_and_searched(cluster, watched):
    page = watched.page
    counter = cluster.busy.counters[0]
    ract.get(counter.say.remote("the first line"))
    page.goto(address(cluster, f"actor?id={counter._actor_id.hex()}"))
    lines = page.locator(".lines")
    lines.get_by_text("the first line").wait_for()
    ract.get(counter.say.remote("<b>the second line</b>"))
    lines.get_by_text("<b>the second line</b>").wait_for()
    page.get_by_label("Search the log").fill("SECOND")
    lines.locator(".hit").first.wait_for()
    browser.wait_for(page, lambda: "first" not in lines.inner_text(), lambda: lines.inner_text())
    page.goto(address(cluster, "actors?q=counter-0"))
    page.locator("td[data-key=pid] a").click()
    page.wait_for_url("**/ract/logs?*")
    lines.get_by_text("the first line").wait_for()
    ract.get(counter.say.remote("a third line"))
    lines.get_by_text("a third line").wait_for()


def test_no_other_log_is_shown_for_a_process_that_has_none(cluster, watched):
    page = watched.page
    counter = cluster.busy.counters[0]
    ract.get(counter.say.remote("what an actor says"))
    node_id = get_actor(counter._actor_id.hex()).node_id
    [driver] = list_workers(filters=[("worker_type", "=", "DRIVER")])
    number = int(driver.worker_id, 16)
    page.goto(address(cluster, f"logs?node_id={node_id}&process={number}&pid={driver.pid}"))
    nothing = f"Process {driver.pid} has left no log file on its node."
    page.get_by_text(nothing).wait_for()
    page.reload()
    page.get_by_text(nothing).wait_for()
    page.get_by_label("Filter the files").fill("no such file")
    page.get_by_text("No file fits the filter.").wait_for()
    page.get_by_label("Filter the files").fill(str(get_actor(counter._actor_id.hex()).pid))
    page.locator(".lines").get_by_text("what an actor says").wait_for()


def test_dark_is_what_the_system_says_or_the_person_chose(cluster, context, chromium):
    dark = chromium.new_context(viewport=browser.LAPTOP, color_scheme="dark")
    dark.set_default_timeout(browser.PATIENCE_MS)
    watched = browser.Watched(dark)
    page = watched.page
    page.goto(ract.dashboard.display("tasks").src)
    page.wait_for_selector("[data-plot] canvas", state="attached")

    def background():
        channels = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in channels.strip("rgb()").split(","))

    axis = """() => Bokeh.documents[0]?.get_model_by_name("task-stream")
        ?.below[0].major_label_text_color"""
    assert background() < 150
    browser.wait_for(page, lambda: page.evaluate(axis) == "#9aa7b6", lambda: page.evaluate(axis))
    page.get_by_role("button", name="Theme").click()
    assert page.locator("#theme").inner_text() == "Theme: light"
    assert background() > 600
    assert page.evaluate(axis) == "#5a6675"
    page.goto(address(cluster, "actors"))
    assert background() > 600, "the choice is remembered"
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: dark"
    assert background() < 150
    assert watched.problems == []
    dark.close()


@pytest.fixture
def notebook_with():
    """What a notebook does: HTML in a page from another port of this machine, opened by name."""

    class Handler(BaseHTTPRequestHandler):
        body = b""

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def show(body):
        Handler.body = body.encode()
        return f"http://localhost:{server.server_port}/notebook"

    yield show
    server.shutdown()
    thread.join()
    server.server_close()


def test_display_embeds_a_page_in_a_notebook(cluster, chromium, notebook_with):
    frame = ract.dashboard.display("individual/cpus", height=300)
    fresh = chromium.new_context()
    fresh.set_default_timeout(browser.PATIENCE_MS)
    page = fresh.new_page()
    page.goto(notebook_with(frame._repr_html_()))
    inner = page.frame_locator("iframe")
    inner.locator("canvas").first.wait_for(state="attached", timeout=browser.PATIENCE_MS)
    assert "key=" not in page.frames[1].url
    assert page.frames[1].url.startswith("http://localhost:"), "the name of the notebook's page"
    fresh.close()


def test_display_says_what_is_wrong(cluster):
    with pytest.raises(ValueError, match="not the name of a page"):
        ract.dashboard.display("http://evil.example")
    frame = ract.dashboard.display("actors")
    assert "key" not in repr(frame)


def test_node_that_dies_is_an_alert(cluster, watched):
    """The last one: the cluster is smaller after it."""
    page = watched.page
    page.goto(address(cluster, "overview"))
    page.wait_for_selector(".tile")
    cluster.busy.pause()
    try:
        cluster.remove_node(cluster.extra.pop(), allow_graceful=False)
        alert = page.locator(".alerts li", has_text="Node")
        alert.wait_for()
        assert "right" in alert.inner_text()
        tile = page.locator(".tile[data-tile=Nodes] .note")
        browser.wait_for(page, lambda: "1 dead" in tile.inner_text(), tile.inner_text)
    finally:
        cluster.busy.go_on()
