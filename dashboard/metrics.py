"""``/metrics``: the cluster, and what its programs count, for Prometheus.

Dask's own figures of the scheduler, ``dask_scheduler_...``, stand on the same page, because Dask
has them there. The page is guarded like every other: Prometheus sends the join token as a bearer
token. prometheus_client is imported at the first scrape, and the text is made in a thread: there
may be very many series, for which the cluster need not wait.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from tornado import routing, web

from ract.core.metrics import COUNTER, GAUGE, Batch

if TYPE_CHECKING:
    from ract.dashboard.source import Source

logger = logging.getLogger(__name__)

LAG = "ract_scheduler_loop_lag_seconds"
LAG_HELP = "The longest that anything waited for the scheduler's event loop in the last 15 s"
LAG_PERIOD_S = 0.25
LAG_WINDOW_S = 15.0

CLOSED = (Status.closing, Status.closed, Status.failed)

_DASK = "distributed.http.scheduler.prometheus"
DASK_COLLECTORS = (
    (f"{_DASK}.core", "SchedulerMetricCollector"),
    (f"{_DASK}.semaphore", "SemaphoreMetricCollector"),
    (f"{_DASK}.stealing", "WorkStealingMetricCollector"),
)


class LoopLag:
    """How late the event loop is: a timer that looks how late it is itself.

    Args:
        is_over: Asked now and then; the timer stops when the answer is yes.
    """

    def __init__(self, is_over: Callable[[], bool] = lambda: False) -> None:
        self._is_over = is_over
        self._late: deque[float] = deque(maxlen=int(LAG_WINDOW_S / LAG_PERIOD_S))
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._again()

    @property
    def seconds(self) -> float:
        """The longest delay of late."""
        return max(self._late, default=0.0)

    def _again(self) -> None:
        self._due = self._loop.time() + LAG_PERIOD_S
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._late.append(max(0.0, self._loop.time() - self._due))
        if not self._is_over():
            self._again()


def install(scheduler: Any, source: Source) -> None:
    """Answer ``/metrics`` of the scheduler's HTTP server, in front of Dask's own route."""
    page = _Page(scheduler, source, LoopLag(lambda: scheduler.status in CLOSED))
    target = (routing.PathMatches("/metrics"), _Handler, {"page": page})
    # Routes that were there first would win, and Dask's is made when the scheduler starts.
    router = scheduler.http_application.default_router
    router.rules.insert(0, router.process_rule(routing.Rule(*target)))


class _Page:
    """Makes the text."""

    def __init__(self, scheduler: Any, source: Source, lag: LoopLag) -> None:
        self._scheduler = scheduler
        self._source = source
        self._lag = lag
        self._dask: Any = None

    async def text(self) -> bytes:
        """The page as it is now."""
        in_thread = asyncio.get_running_loop().run_in_executor
        await in_thread(None, importlib.import_module, "prometheus_client")
        families: Batch = self._source.query("metrics", {})
        lag = [LAG, GAUGE, LAG_HELP, [], [[[], self._lag.seconds]]]
        dasks = self._dasks()
        return await in_thread(None, exposition, [*families, lag]) + dasks

    def _dasks(self) -> bytes:
        import prometheus_client

        if self._dask is None:
            self._dask = prometheus_client.CollectorRegistry(auto_describe=False)
            for module, name in DASK_COLLECTORS:
                try:
                    collector = getattr(importlib.import_module(module), name)
                    self._dask.register(collector(self._scheduler))
                except Exception:  # another version of distributed; ours are what counts here
                    logger.exception("Dask's metrics %s are left out", name)
        return prometheus_client.generate_latest(self._dask)


class _Handler(web.RequestHandler):
    def initialize(self, page: _Page) -> None:
        self._page = page

    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(await self._page.text())


def exposition(batch: Batch) -> bytes:
    """Plain families (`ract.core.metrics`) in Prometheus' text format."""
    import prometheus_client

    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(batch))
    return prometheus_client.generate_latest(registry)


class _Collector:
    """The families as prometheus_client wants them.

    What a program calls its metrics must not make the page one that Prometheus refuses: of two that
    would have the same name on it the first is shown, and the cluster's own come first.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def collect(self) -> Iterator[Any]:
        """All that can be shown."""
        taken: set[str] = set()
        for name, kind, description, boundaries, points in self._batch:
            names = _names(name, kind)
            if _NAME.fullmatch(name) and not taken & names:
                taken |= names
                yield _family(name, kind, description, boundaries, points)
            elif name not in _left_out:
                _left_out.add(name)
                logger.warning("metric %s is not shown: its name is taken, or is no name", name)


_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_left_out: set[str] = set()


def _names(name: str, kind: str) -> set[str]:
    if kind == COUNTER:
        return {f"{name.removesuffix('_total')}_total"}
    if kind == GAUGE:
        return {name}
    return {name, *(f"{name}_{suffix}" for suffix in ("bucket", "count", "sum"))}


def _family(
    name: str, kind: str, description: str, boundaries: list[float], points: list[Any]
) -> Any:
    from prometheus_client import utils
    from prometheus_client.core import Metric

    if kind == COUNTER:
        name = name.removesuffix("_total")
    family = Metric(name, description or name, kind)
    for flat, value in points:
        labels = {_label(key): tag for key, tag in zip(flat[::2], flat[1::2], strict=True)}
        if kind == COUNTER:
            family.add_sample(f"{name}_total", labels, value)
        elif kind == GAUGE:
            family.add_sample(name, labels, value)
        else:
            count = 0
            for boundary, n in zip([*boundaries, float("inf")], value[:-1], strict=True):
                count += n
                le = utils.floatToGoString(boundary)
                family.add_sample(f"{name}_bucket", {**labels, "le": le}, count)
            family.add_sample(f"{name}_count", labels, count)
            family.add_sample(f"{name}_sum", labels, value[-1])
    return family


def _label(key: str) -> str:
    """A tag's key as Prometheus allows it; ``le`` is its own."""
    key = re.sub("[^a-zA-Z0-9_]", "_", key)
    if not key or key[0].isdigit() or key.startswith("__"):
        key = f"tag_{key}"
    return "le_" if key == "le" else key
