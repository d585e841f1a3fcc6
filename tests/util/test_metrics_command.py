"""``ract metrics``, with a stand-in for the program prometheus that scrapes once and says so."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

import ract
from ract.core.session import child_environment, root_folder

PROMETHEUS = """\
#!{python}
import http.server, pathlib, sys, urllib.request, yaml

options = dict(each.lstrip("-").split("=", 1) for each in sys.argv[1:])
[job] = yaml.safe_load(open(options["config.file"]))["scrape_configs"]
token = open(job["authorization"]["credentials_file"]).read().strip()
url = "http://" + job["static_configs"][0]["targets"][0] + job["metrics_path"]
headers = {{"Authorization": job["authorization"]["type"] + " " + token}}
page = urllib.request.urlopen(urllib.request.Request(url, headers=headers)).read()
data = pathlib.Path(options["storage.tsdb.path"])
data.mkdir()
(data / "scraped").write_bytes(page)


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()


host, port = options["web.listen-address"].split(":")
http.server.HTTPServer((host, int(port)), Ready).serve_forever()
"""


@pytest.fixture(scope="module", autouse=True)
def dashboard():
    """HOST:PORT of a running cluster's dashboard."""
    context = ract.init(num_cpus=1)
    yield context.dashboard_url.split("/")[2]
    ract.shutdown()


@pytest.fixture
def programs(tmp_path):
    """A folder that is the whole PATH."""
    return tmp_path


def run(programs, *arguments, **variables):
    command = [sys.executable, "-m", "ract.commands.main", "metrics", *arguments]
    environment = child_environment(PATH=str(programs), **variables)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def install(programs, text):
    program = programs / "prometheus"
    program.write_text(textwrap.dedent(text).format(python=sys.executable))
    program.chmod(0o755)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_prometheus_is_started_scrapes_the_cluster_and_is_ended(programs, dashboard):
    install(programs, PROMETHEUS)
    port = free_port()
    done = run(programs, "launch-prometheus", "--dashboard", dashboard, "--port", port)
    assert done.returncode == 0, done.stderr
    folder = root_folder() / "prometheus"
    pid = int((folder / "pid").read_text())
    assert f"prometheus (pid {pid}): http://127.0.0.1:{port}, scrapes {dashboard}" in done.stdout
    assert 'ract_nodes{State="ALIVE"} 1.0' in (folder / "data" / "scraped").read_text()
    assert {path.stat().st_mode & 0o077 for path in (folder / "token", folder)} == {0}
    again = run(programs, "launch-prometheus", "--dashboard", dashboard)
    assert again.returncode == 1
    assert f"runs already (pid {pid})" in again.stderr
    ended = run(programs, "shutdown-prometheus")
    assert ended.stdout == f"stopped prometheus (pid {pid})\n"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert run(programs, "shutdown-prometheus").stdout == "nothing to stop\n"


def test_without_the_program_there_is_a_configuration_to_take_elsewhere(programs, dashboard):
    done = run(programs, "launch-prometheus", "--dashboard", dashboard)
    assert done.returncode == 1
    assert "no program 'prometheus' on the PATH" in done.stderr
    [path] = [line.split()[-1] for line in done.stdout.splitlines() if "configuration" in line]
    assert dashboard in Path(path).read_text()


def test_a_prometheus_that_fails_is_told_with_what_it_said(programs, dashboard):
    install(programs, "#!{python}\nimport sys\nsys.exit('the port is taken')\n")
    done = run(programs, "launch-prometheus", "--dashboard", dashboard, "--port", free_port())
    assert done.returncode == 1
    assert "prometheus did not start" in done.stderr
    assert "the port is taken" in done.stderr


def test_what_is_no_dashboard_is_told(programs, dashboard):
    port = free_port()
    done = run(programs, "launch-prometheus", "--dashboard", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: " in done.stderr
    assert "--dashboard" in done.stderr
    wrong = run(programs, "launch-prometheus", "--dashboard", dashboard, RACT_TOKEN="x" * 43)
    assert wrong.returncode == 1
    assert "another join token" in wrong.stderr
    assert os.environ.get("RACT_TOKEN") is None
