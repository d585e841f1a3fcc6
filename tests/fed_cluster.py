"""Clusters of events alone, for pages that have to be right and quick however much there is."""

import asyncio
import itertools
from array import array
from dataclasses import replace

from distributed import Scheduler
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from ract.benchmarks.scheduling import Bench
from ract.core import logs
from ract.core import messages as m
from ract.core.resources import UNIT
from ract.dashboard import app
from ract.dashboard.history import History
from ract.scheduler.books.turn import Tick
from ract.scheduler.queries import queries

TOKEN = "a-token-for-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
BAD_NAME = "<script>alert(1)</script>"
JOB = b"job0"


class FedCluster(Bench):
    """A scheduler's machine that is told what nodes and processes would tell it."""

    def __init__(self, nodes=2):
        super().__init__(nodes)
        self._task_numbers = itertools.count(1)

    @property
    def time(self):
        """The machine's time of day: its clock begins at 0."""
        return self.now

    def actor_up(self, class_name="Counter", name="", node=None, method_calls=(), repr_name=""):
        """A living actor; returns (its id, its executor)."""
        spec = self.actor({})
        spec = m.ActorSpec(
            spec.actor_id, JOB, 1, class_name, m.Blob(b""), [], {}, {}, name=name, max_restarts=1
        )
        [start] = [
            c for c in self.say(m.ActorWanted(1, spec)) if isinstance(c.message, m.StartActor)
        ]
        return spec.actor_id, self.up(start.node_id, spec.actor_id, repr_name=repr_name)

    def up(self, node_id, actor_id, incarnation=1, repr_name=""):
        """The constructor of an actor has returned."""
        executor = self.number()
        self.say(m.ProcessJoined(node_id, executor, "executor", 10_000 + executor))
        where = (executor, "a", 10_000 + executor, repr_name)
        self.say(m.ActorStarted(node_id, actor_id, incarnation, *where))
        return executor

    def executor(self, node=0):
        """An executor of tasks."""
        executor = self.number()
        self.say(m.ProcessJoined(self.ids[node], executor, "executor", 10_000 + executor))
        return executor

    def ran(self, executor, name, count=1, took=0.01, actor_id=b"", caller=1):
        """Calls have finished, one after the other, the last of them now."""
        kind = "ACTOR_TASK" if actor_id else "NORMAL_TASK"
        numbers = array("Q", [caller << 36 | next(self._task_numbers) for _ in range(count)])
        begin = self.now - count * took
        times = array("d", [begin + took * (i // 2 + i % 2) for i in range(2 * count)])
        run = [name, name, kind, actor_id, JOB, numbers.tobytes(), times.tobytes(), b"", {}]
        self.say(m.TaskEvents(executor, [], [run]))

    def failed(
        self, executor, name, message, error_type="TASK_EXECUTION_EXCEPTION", is_start_known=True
    ):
        """A call has failed."""
        task_id = (1 << 36 | next(self._task_numbers)).to_bytes(8, "big") + b"\xff" * 12 + JOB
        start, end = self.now - 0.01 if is_start_known else -1.0, self.now
        event = [task_id, 0, name, name, "NORMAL_TASK", "FAILED", start, end, 0, b""]
        self.say(m.TaskEvents(executor, [[*event, error_type, message, {}]]))

    def remember(self, tasks_max):
        """So many calls at most."""
        settings = replace(self.machine.turn.settings, tasks_max=tasks_max)
        self.machine.turn.settings = settings

    def wait(self, seconds):
        """Time goes by."""
        self.now += seconds
        self.say(Tick())


class FedSource:
    """What pages ask, of a fed cluster; logs lie in a folder."""

    def __init__(self, cluster, logs="/nonexistent"):
        self.fed = cluster
        self.history = History(cluster.machine.cluster)
        self.logs = str(logs)
        self.asked = 0
        self.places = {}  # by node: where it has an object

    @property
    def cluster(self):
        self.asked += 1
        return self.fed.machine.cluster

    def query(self, op, args):
        return queries.OPS[op](self.cluster, 0, args)

    async def stored(self, node_id, object_id):
        if node_id not in self.places:
            raise LookupError("it does not answer")
        return self.places[node_id]

    async def log_files(self, node_id):
        return logs.OPS["log_files"](self.logs, {})

    async def read_log(self, node_id, name, **wanted):
        try:
            return logs.OPS["log"](self.logs, {"filename": name, **wanted})
        except (OSError, ValueError) as error:
            raise LookupError(str(error)) from error


def small_cluster():
    """Something of everything, with a name that must never become HTML."""
    cluster = FedCluster(2)
    cluster.wait(100)
    counter, executor = cluster.actor_up("Counter", "counter")
    cluster.ran(executor, "Counter.add", 200, actor_id=counter)
    cluster.actor_up(BAD_NAME)
    worker = cluster.executor()
    cluster.ran(worker, "work", 50)
    cluster.failed(worker, BAD_NAME, f"ValueError: {BAD_NAME}")
    dead, _ = cluster.actor_up("Doomed")
    cluster.say(m.ActorKillWanted(1, dead, True))
    cluster.say(m.ObjectPublished(1, b"o" * 28, m.Blob(b"x" * 2048), [], [m.Hold(b"o" * 28, 1, 1)]))
    shape = m.Shape({"CPU": UNIT, "GPU": 4 * UNIT}, JOB)
    cluster.say(m.LeasesWanted(1, 7, shape, 3, [BAD_NAME]))
    bundles = [{"CPU": UNIT}, {"CPU": UNIT}]
    cluster.say(m.GroupWanted(1, m.GroupSpec(b"g" * 18, JOB, 1, bundles, "SPREAD", BAD_NAME)))
    cluster.counter, cluster.dead, cluster.worker = counter, dead, worker
    return cluster


def with_dashboard(story, dashboard=False, source=None, limit_s=110):
    """Run ``story(scheduler, dashboard, source, fetch)`` beside a started, stock scheduler."""

    async def run():
        async with Scheduler(
            protocol="tcp://", host="127.0.0.1", port=0, dashboard=dashboard, dashboard_address=":0"
        ) as scheduler:
            answers = source or FedSource(small_cluster())
            made = app.install(scheduler, answers, TOKEN)
            port = scheduler.http_server.port

            async def fetch(path, method="GET", headers=BEARER, **kwargs):
                request = HTTPRequest(
                    f"http://127.0.0.1:{port}{path}",
                    method=method,
                    headers=headers,
                    follow_redirects=False,
                    allow_nonstandard_methods=True,
                    **kwargs,
                )
                return await AsyncHTTPClient(force_instance=True).fetch(request, raise_error=False)

            await story(scheduler, made, answers, fetch)

    asyncio.run(asyncio.wait_for(run(), limit_s))
