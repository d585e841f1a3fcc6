"""The command ``rscheduler``, as a real process: what it prints, what it serves, how it ends."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

TIMEOUT_S = 30.0
TOKEN = "a-token-for-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

#: Routes of Dask and of ours; what they show is nobody's business without the token.
PATHS = (
    *("/", "/status", "/workers", "/metrics", "/sitemap.json", "/json/counts.json"),
    *("/info/main/workers.html", "/statics/css/base.css"),
    *("/ract/", "/ract/overview", "/ract/api/status", "/ract/api/nodes"),
)


class Command:
    """A running ``rscheduler`` with a home of its own."""

    def __init__(self, folder, *arguments, **env):
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if k != "RACT_TOKEN"}
        places = {"RACT_TMPDIR": str(folder / "s"), "RACT_HOME": str(folder / "h")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ract.scheduler.cli", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**clean, **places, **env},
            text=True,
        )
        self.address = self.line(r"rscheduler: listening at (\w+://127\.0\.0\.1:\d+)")[1]

    @property
    def notice(self):
        return self.folder / "s" / f"scheduler-{self.process.pid}.json"

    def line(self, pattern):
        """The next line it prints, which must match."""
        line = self.process.stdout.readline()
        found = re.fullmatch(pattern + "\n", line)
        assert found, f"{line!r} is not {pattern!r}"
        return found

    def end(self, number=signal.SIGTERM):
        """Signal it; nothing may be left of it."""
        family = [self.process.pid, *self._children()]
        self.process.send_signal(number)
        assert self.process.wait(TIMEOUT_S) == 0
        assert {path.name for path in (self.folder / "s").iterdir()} <= {"history"}
        assert not any(map(psutil.pid_exists, family))

    def _children(self):
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]


@pytest.fixture
def command(tmp_path):
    made = []

    def start(*arguments, **env):
        made.append(Command(tmp_path, *arguments, **env))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()


def get(port, path, headers=()):
    """(status, body) of a plain GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def listening_ports(pid):
    found = psutil.Process(pid).net_connections("inet")
    return {each.laddr for each in found if each.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_says_where_it_listens_and_the_token_that_it_made_and_ends_cleanly(
    command, tmp_path, number
):
    running = command("--no-dashboard")
    file = tmp_path / "h" / "token"
    token = running.line(rf"join token: (\S+) \(kept in {re.escape(str(file))}, mode 0600\)")[1]
    assert file.read_text().strip() == token
    assert file.stat().st_mode & 0o777 == 0o600
    told = json.loads(running.notice.read_text())
    assert (told["address"], told["pid"]) == (running.address, running.process.pid)
    running.end(number)


def test_dashboard_is_served_on_loopback_to_those_who_have_the_token(command):
    running = command("--dashboard-address", "127.0.0.1:0", RACT_TOKEN=TOKEN)
    running.line(rf"join token: {TOKEN} \(from \$RACT_TOKEN\)")
    link = running.line(r"dashboard \(.*\): http://127\.0\.0\.1:(\d+)(/ract/\?key=\S+)")
    port, login = int(link[1]), link[2]
    for path in PATHS:
        assert get(port, path)[0] == 401, path
        assert get(port, path, {"Authorization": "Bearer wrong"})[0] == 401, path
    assert get(port, "/health") == (200, b"ok")
    # The first two lead elsewhere; the third fails in Dask once there are pages.
    for path in [path for path in PATHS if path not in ("/", "/ract/", "/sitemap.json")]:
        assert get(port, path, BEARER)[0] == 200, path
    assert json.loads(get(port, "/ract/api/status", BEARER)[1])["nodes"] == []
    assert get(port, login)[0] == 302
    assert get(port, login)[0] == 401
    running.end()


def test_dashboard_is_there_by_default(command):
    running = command(RACT_TOKEN=TOKEN)
    running.line(r"join token: .*")
    running.line(r"dashboard \(.*\): http://127\.0\.0\.1:\d+/ract/\?key=\S+")
    assert {address.ip for address in listening_ports(running.process.pid)} == {"127.0.0.1"}
    running.end()


def test_without_a_dashboard_there_is_no_http(command):
    running = command("--no-dashboard", RACT_TOKEN=TOKEN)
    running.line(r"join token: .*")
    [only] = listening_ports(running.process.pid)
    assert running.address == f"tls://127.0.0.1:{only.port}"
    running.end()


def test_scheduler_does_not_start_with_unguarded_pages(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['ract.dashboard.app'] = None\n"  # its import fails
    )
    done = subprocess.run(
        [sys.executable, "-m", "ract.scheduler.cli", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "RACT_TOKEN": TOKEN, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode != 0
    assert done.stdout == ""


def test_refuses_plain_tcp_beyond_loopback():
    done = subprocess.run(
        [sys.executable, "-m", "ract.scheduler.cli", "--host", "0.0.0.0", "--protocol", "tcp"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "RACT_TOKEN": TOKEN},
    )
    assert done.returncode == 2
    assert "loopback" in done.stderr
