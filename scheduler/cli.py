"""The command ``rscheduler``: a stock Dask scheduler with ract's plugin.

Theory of operation
-------------------
The join token gives the certificate of the cluster (`ract.core.security`); everything speaks TLS
unless ``--protocol tcp`` is asked for on loopback. A file ``scheduler-<pid>.json`` in the root
folder tells ``ract status`` and ``ract stop`` where to look; it goes when the process ends. SIGINT
and SIGTERM end it with exit code 0. With ``--journal`` nodes then wait for it to be started again,
as they do when it crashes; otherwise they end.

A journal is opened, and the state in it made again, before anything listens: so the plugin is made
here, and the preload finds it in Dask's configuration. Nodes come back to the old address, so a
journal also knows the port that was found for ``--port 0``.

distributed opens an HTTP port in any case. Either `ract.dashboard.preload` puts its pages there and
its guard before all of it, Dask's own routes included; or, with ``--no-dashboard``, the port is
closed before anything can be asked. The dashboard is named here, not imported: it looks at the
scheduler, not the other way round. If it cannot be installed, the scheduler does not start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import psutil

from ract.core import dask_settings, security, session
from ract.core.errors import JournalError

PRELOAD = "ract.scheduler.preload"
DASHBOARD_PRELOAD = "ract.dashboard.preload"
DASK_METRICS = "distributed.http.scheduler.prometheus"
DASHBOARD_ADDRESS = "127.0.0.1:8787"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(name="rscheduler")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8786, show_default=True, help="Port to listen at; 0 for any.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    help="Join token; made if it does not exist. Default: $RACT_TOKEN, else ~/.ract/token.",
)
@click.option("--protocol", default="tls", show_default=True, type=click.Choice(["tls", "tcp"]))
@click.option(
    "--dashboard-address",
    default=DASHBOARD_ADDRESS,
    show_default=True,
    help="HOST:PORT of the dashboard; another port if that one is taken, 0 for any.",
)
@click.option("--no-dashboard", is_flag=True, help="No HTTP at all.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False),
    help="Keep what is needed to come back after a crash in this file: nodes wait, work goes on.",
)
@click.option(
    "--journal-sync",
    is_flag=True,
    help="Wait for the disk at each step, so that even a power failure loses nothing. Slower.",
)
@click.option("--until-pid", type=int, hidden=True, help="End when this process ends.")
def main(
    host: str,
    port: int,
    token_file: str | None,
    protocol: str,
    dashboard_address: str,
    no_dashboard: bool,
    journal: str | None,
    journal_sync: bool,
    until_pid: int | None,
) -> None:
    """Run the central scheduler of a ract cluster."""
    try:
        token = security.load_or_create_token(token_file)
    except security.TokenError as error:
        raise click.ClickException(str(error)) from error
    if protocol == "tcp" and host not in LOOPBACK:
        raise click.UsageError(
            "without TLS anybody who can connect runs code here: --protocol tcp is for loopback"
        )
    configure(token, tls=protocol == "tls")
    dashboard = None if no_dashboard else dashboard_address
    try:
        asyncio.run(
            _serve(
                host,
                port,
                protocol,
                dashboard,
                token,
                _kept_in(token_file),
                journal,
                journal_sync,
                until_pid,
            )
        )
    except JournalError as error:
        raise click.ClickException(str(error)) from error
    except PermissionError as error:  # the root folder, or a port below 1024
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot listen at {host}:{port}: {error}") from error


def configure(token: str, *, tls: bool = True) -> None:
    """Set Dask's configuration for this process: TLS of the cluster, and what we do ourselves.

    Args:
        token: the join token, which is also what the dashboard asks for.
        tls: whether connections are encrypted and authenticated by the token.
    """
    import dask

    dask.config.set(
        {
            **dask_settings.common(),
            "distributed.comm.timeouts.connect": "30s",
            # Before distributed is imported, which reads it then. Said otherwise by the user: kept.
            "logging.distributed": dask.config.get("logging.distributed", "warning"),
            "ract.token": token,
            **(security.security_config(token) if tls else {}),
        }
    )


async def _serve(
    host: str,
    port: int,
    protocol: str,
    dashboard: str | None,
    token: str,
    token_kept_in: str,
    journal: str | None,
    journal_sync: bool,
    until_pid: int | None,
) -> None:
    plugin = _prepare(journal, journal_sync)
    stop = _when_to_stop(until_pid)
    scheduler = _made(host, port or plugin.port, protocol, dashboard)
    await scheduler
    notice: Path | None = None
    try:
        # distributed only logs that a preload failed; unguarded pages must not go on.
        if "ract" not in scheduler.plugins:
            raise click.ClickException(f"{PRELOAD} could not be loaded; see the log above")
        if dashboard is not None and not plugin.dashboard_url:
            raise click.ClickException(f"{DASHBOARD_PRELOAD} could not be loaded; see the log")
        notice = write_notice(
            {
                "address": scheduler.address,
                "pid": os.getpid(),
                "cluster_id": plugin.cluster_id.hex(),
                "token_fingerprint": security.fingerprint(token),
            }
        )
        click.echo(f"rscheduler: listening at {scheduler.address}")
        click.echo(f"join token: {token} ({token_kept_in})")
        if plugin.dashboard_url:
            click.echo(f"dashboard (the link works once): {plugin.dashboard_url}")
        await _either(scheduler.finished(), stop.wait())
        if plugin.failure:
            raise click.ClickException(plugin.failure)
        # From here on connections end on purpose: distributed need not report it.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
    finally:
        if notice is not None:
            notice.unlink(missing_ok=True)
        await scheduler.close(reason="rscheduler ends")


def _prepare(journal: str | None, journal_sync: bool) -> Any:
    """Make the plugin, which the preload installs into the scheduler that is made next."""
    import dask
    import distributed  # noqa: F401 - adds its part to Dask's configuration; 0.3 s

    # ract's page brings Dask's figures with it, and imports prometheus_client when it is asked.
    routes = dask.config.get("distributed.scheduler.http.routes")
    kept = [route for route in routes if route != DASK_METRICS]
    dask.config.set({"distributed.scheduler.http.routes": kept})
    from ract.scheduler.preload import make

    plugin = make(journal, full=journal_sync)
    plugin.begin()
    dask.config.set({"ract.plugin": plugin})
    return plugin


def _made(host: str, port: int, protocol: str, dashboard: str | None) -> Any:
    """Dask's scheduler, not started yet."""
    from distributed import Scheduler

    scheduler = Scheduler(
        host=host,
        port=port,
        protocol=f"{protocol}://",
        dashboard=False,  # Dask's pages are made, behind the guard, when one is asked for
        dashboard_address="127.0.0.1:0" if dashboard is None else dashboard,
        preload=[PRELOAD] if dashboard is None else [PRELOAD, DASHBOARD_PRELOAD],
    )
    if dashboard is None:
        scheduler.http_server.stop()
    return scheduler


def _when_to_stop(until_pid: int | None) -> asyncio.Event:
    """Set by a signal that asks this process to end, or by the end of another process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_pid is not None:
        loop.add_reader(os.pidfd_open(until_pid), stop.set)
    return stop


async def _either(*waited_for: Coroutine[Any, Any, Any]) -> None:
    """Return when the first of them is over; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in waited_for]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def write_notice(data: dict[str, Any]) -> Path:
    """Write ``scheduler-<pid>.json`` in the root folder, complete or not at all."""
    for old in session.root_folder().glob("scheduler-*.json"):
        if not psutil.pid_exists(int(old.stem.partition("-")[2])):  # it crashed
            old.unlink(missing_ok=True)
    path = session.root_folder() / f"scheduler-{os.getpid()}.json"
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(data))
    beside.chmod(0o600)
    beside.replace(path)
    return path


def _kept_in(token_file: str | None) -> str:
    if token_file is None and "RACT_TOKEN" in os.environ:
        return "from $RACT_TOKEN"
    return f"kept in {token_file or security.home() / 'token'}, mode 0600"


if __name__ == "__main__":
    main()
