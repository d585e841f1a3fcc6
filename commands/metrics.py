"""``ract metrics``: a Prometheus of one's own that scrapes the cluster of this machine.

Prometheus itself must be installed: nothing is downloaded. What it needs lies in
``<root folder>/prometheus``: its configuration, the join token for its requests, its data, its log,
and the number of its process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import click
import psutil

from ract.core import security
from ract.core.session import root_folder

DASHBOARDS = ("127.0.0.1:8787", "127.0.0.1:8265")
"""Where ``rscheduler`` and ``ract.init`` serve the page, unless they are told otherwise."""

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05

SCRAPE = """\
# Written by ract metrics launch-prometheus.
global:
  scrape_interval: 5s

scrape_configs:
  - job_name: ract
    metrics_path: /metrics
    authorization:
      type: Bearer
      credentials_file: {token}
    static_configs:
      - targets: ["{dashboard}"]
"""


@click.group()
def metrics() -> None:
    """Have a Prometheus scrape the cluster."""


@metrics.command("launch-prometheus")
@click.option(
    "--dashboard", help=f"HOST:PORT of the dashboard; default: {' or '.join(DASHBOARDS)}."
)
@click.option("--token-file", help="Join token. Default: $RACT_TOKEN, else ~/.ract/token.")
@click.option("--port", default=9090, show_default=True, help="Where Prometheus listens, loopback.")
def launch(dashboard: str | None, token_file: str | None, port: int) -> None:
    """Start the program prometheus for the cluster on this machine."""
    try:
        token = security.load_token(token_file)
    except security.TokenError as error:
        raise click.ClickException(str(error)) from error
    dashboard = _found([dashboard] if dashboard else list(DASHBOARDS), token)
    folder = root_folder() / "prometheus"
    folder.mkdir(mode=0o700, exist_ok=True)
    running = _running(folder)
    if running is not None:
        raise click.ClickException(
            f"it runs already (pid {running.pid}); ract metrics shutdown-prometheus ends it"
        )
    _write(folder / "token", token)
    config = folder / "prometheus.yml"
    _write(config, SCRAPE.format(token=folder / "token", dashboard=dashboard))
    click.echo(f"configuration: {config}")
    program = shutil.which("prometheus")
    if program is None:
        raise click.ClickException(
            "there is no program 'prometheus' on the PATH: install it (https://prometheus.io), or "
            f"give this configuration to one that runs elsewhere: it scrapes {dashboard}"
        )
    address = f"127.0.0.1:{port}"
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    _write(folder / "pid", str(process.pid))
    _await_ready(process, address, folder / "log")
    click.echo(f"prometheus (pid {process.pid}): http://{address}, scrapes {dashboard}")


@metrics.command("shutdown-prometheus")
def shutdown() -> None:
    """End what launch-prometheus has started."""
    process = _running(root_folder() / "prometheus")
    if process is None:
        click.echo("nothing to stop")
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except psutil.TimeoutExpired:
        process.kill()
    click.echo(f"stopped prometheus (pid {process.pid})")


def _found(candidates: list[str], token: str) -> str:
    """The first of these addresses that shows the metrics of a cluster with this token."""
    problems = []
    for address in candidates:
        url = f"http://{address}/metrics"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                if b"\nract_nodes" in answer.read():
                    return address
            problems.append(f"{address} is no dashboard of ract")
        except urllib.error.HTTPError as error:
            what = "has another join token" if error.code == 401 else f"answers {error.code}"
            problems.append(f"{address} {what}")
        except (OSError, ValueError) as error:
            problems.append(f"{address}: {getattr(error, 'reason', error)}")
    raise click.ClickException(
        f"no dashboard of a cluster: {'; '.join(problems)}. Name it with --dashboard."
    )


def _running(folder: Path) -> psutil.Process | None:
    """The Prometheus that was started for this folder, if it still runs."""
    try:
        process = psutil.Process(int((folder / "pid").read_text()))
        is_ours = any(str(folder) in word for word in process.cmdline())
        is_dead = process.status() == psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return None
    return process if is_ours and not is_dead else None


def _await_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(POLL_S)
    process.kill()
    last = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise click.ClickException(f"prometheus did not start; {log} ends: {' | '.join(last)}")


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    os.chmod(path, 0o600)
    path.write_text(f"{text}\n")
