"""``make screenshots``: pictures of the dashboard's pages beside a small cluster at work.

    python docs/screenshots.py FOLDER

It needs what the tests of the dashboard need: Playwright and Chromium (see ``tests/browser.py``).
"""

import io
import os
import random
import sys
import threading
import time
from pathlib import Path

import ract
from ract.compat.ported.cluster_utils import Cluster
from ract.util import placement_group

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import browser

COLORS = 256
"""Of a picture: enough for pages, and a third of the size."""

WORK_S = 60.0
"""So long the cluster works before the first picture, that there is something to see."""


@ract.remote
def load(part):
    time.sleep(random.uniform(0.005, 0.05))
    return bytes(200_000)


@ract.remote
def clean(rows, number):
    time.sleep(random.uniform(0.01, 0.08))
    if number % 17 == 0:
        raise ValueError(f"record {number} has no column 'price'")
    return len(rows)


@ract.remote(num_cpus=0.1)
def pipeline(day):
    parts = [load.remote(4 * day + k) for k in range(4)]
    return sum(ract.get([clean.remote(part, 1 + k) for k, part in enumerate(parts)]))


@ract.remote(num_cpus=0, max_restarts=3)
class Model:
    def __init__(self, name):
        self.name, self.steps = name, 0
        print(f"{name}: ready")

    def predict(self, x):
        self.steps += 1
        return x * 2

    def train(self):
        time.sleep(0.05)
        print(f"{self.name}: step {self.steps}, loss {3000 / (1000 + self.steps):.4f}")

    def crash(self):
        os._exit(3)


@ract.remote(num_cpus=0)
class Cache:
    def __init__(self):
        self.values = {}

    def put(self, key, value):
        self.values[key] = value


@ract.remote(num_gpus=4)
def fit_on_gpus():
    return 1


@ract.remote(scheduling_strategy="SPREAD")
def scan(rows):
    time.sleep(0.1)
    return len(rows)


class Work(threading.Thread):
    """A driver that goes on until `stop`."""

    def __init__(self):
        super().__init__()
        self.models = [Model.options(name=f"model-{i}").remote(f"model-{i}") for i in range(4)]
        self.cache = Cache.remote()
        self.old = Model.options(name="old").remote("old")
        ract.get(self.old.predict.remote(1))
        ract.kill(self.old)
        for call in (self.models[3].crash.remote(),):
            try:
                ract.get(call)
            except ract.exceptions.RayActorError:
                pass
        self.group = placement_group([{"CPU": 0.5}] * 2, strategy="SPREAD", name="workers")
        self.group.wait(30)
        self.kept = [ract.put(bytes(40_000_000)), *(ract.put(bytes(3_000_000)) for _ in range(5))]
        self.scans = [scan.remote(self.kept[0]) for _ in range(6)]
        self.never = fit_on_gpus.remote()
        self.stop = False

    def run(self):
        day = 0
        while not self.stop:
            day += 1
            calls = [clean.remote(b"", 5 * day + k) for k in range(10)]
            calls += [pipeline.remote(day)] if day % 5 == 0 else []
            calls += [model.predict.remote(1) for model in self.models for _ in range(50)]
            calls += [model.train.remote() for model in self.models[:2]]
            calls += [self.cache.put.remote(day, day)]
            for call in calls:
                try:
                    ract.get(call)
                except ValueError:
                    pass
            time.sleep(0.1)


def pages(work):
    """(name of the picture, address)."""
    yield from ((name, name) for name in ("overview", "nodes", "actors", "tasks", "memory"))
    yield from ((name, name) for name in ("groups", "jobs"))
    model = work.models[3]._actor_id.hex()
    yield "actor", f"actor?id={model}"
    yield "logs", "logs?q=.out"


def take(folder, work):
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = browser.launch(playwright)
        for scheme in ("light", "dark"):
            context = opened.new_context(viewport=browser.LAPTOP, color_scheme=scheme)
            context.set_default_timeout(browser.PATIENCE_MS)
            page = context.new_page()
            link = ract.dashboard.display("overview").src
            page.goto(link)
            for name, path in pages(work):
                page.goto(f"{link.partition('/ract/')[0]}/ract/{path}")
                page.wait_for_selector("section.panel h2")
                page.wait_for_timeout(5000)
                picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                file = folder / f"dashboard-{name}-{scheme}.png"
                picture.quantize(COLORS, kmeans=2).save(file, optimize=True)
                print(f"{file}: {file.stat().st_size // 1024} KiB")
            context.close()
        opened.close()


def main():
    [target] = sys.argv[1:]
    if browser.missing():
        sys.exit(f"no pictures: {browser.missing()}")
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"num_cpus": 2, "include_dashboard": True, "node_name": "head"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for name in ("left", "right"):
        cluster.add_node(num_cpus=2, node_name=name)
    ract.init(address=cluster.address, log_to_driver=False)
    work = Work()
    work.start()
    try:
        time.sleep(WORK_S)
        take(folder, work)
    finally:
        work.stop = True
        work.join()
        ract.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
