"""A page of the dashboard in a notebook."""

from __future__ import annotations

import html
import json
import re
import urllib.error
import urllib.request
from typing import Any

TIMEOUT_S = 10.0

# A browser keeps the cookies of "localhost" and "127.0.0.1" apart, and gives none to a frame of
# another site: the frame goes by the name under which the notebook itself was opened.
_SAME_NAME = """(function () {
  var frame = document.currentScript.previousElementSibling, local = /^(localhost|127\\.[0-9.]+)$/;
  var url = new URL(frame.dataset.src);
  if (local.test(url.hostname) && local.test(location.hostname)) url.hostname = location.hostname;
  frame.src = url.href;
})()"""


class NoDashboardError(RuntimeError):
    """There is no dashboard to show, or it lets this program not in; the text says what to do."""


class Frame:
    """A page in a frame; notebooks show it.

    Attributes:
        src: The page's address, with a key that opens it once.
        width: As in HTML, for instance "100%".
        height: In pixels.
    """

    def __init__(self, src: str, width: str, height: int) -> None:
        self.src, self.width, self.height = src, width, height

    def _repr_html_(self) -> str:
        src = html.escape(self.src, quote=True)
        return (
            f'<iframe data-src="{src}" width="{html.escape(self.width, quote=True)}" '
            f'height="{self.height}" frameborder="0" allowfullscreen></iframe>'
            f"<script>{_SAME_NAME}</script>"
        )

    def __repr__(self) -> str:
        return f"Frame({self.src.partition('?')[0]!r})"


def display(page: str = "overview", *, width: str = "100%", height: int = 640) -> Frame:
    """Show a page of the dashboard in a notebook: the last line of a cell.

    Args:
        page: One of the pages (``"overview"``, ``"nodes"``, ``"actors"``, ``"tasks"``,
            ``"memory"``, ``"groups"``, ``"jobs"``, ``"logs"``), one with its query
            (``"actor?id=..."``), or a plot alone (``"individual/task-stream"``).
        width: As in HTML.
        height: In pixels.

    Raises:
        NoDashboardError: This process is in no cluster, the cluster has no dashboard, or it cannot
            be reached from here.
        ValueError: ``page`` is no name of a page.
    """
    if not re.fullmatch(r"[a-z-]+(/[a-z-]+)?(\?[\w=&%.:+-]*)?", page):
        raise ValueError(f"page={page!r} is not the name of a page, such as 'overview' or 'actors'")
    address = _address()
    mark = "&" if "?" in page else "?"
    return Frame(f"http://{address}/ract/{page}{mark}key={_key(address)}", width, height)


def _address() -> str:
    from ract.client.runtime import current_runtime

    runtime: Any = current_runtime()
    if runtime is None or runtime.closed:
        raise NoDashboardError("this process is in no cluster: call ract.init() first")
    if getattr(runtime, "is_local", False) or not hasattr(runtime, "link"):
        raise NoDashboardError("local mode has no cluster, so there is no dashboard")
    address = runtime.link.request("status").get("dashboard_address", "")
    if not address:
        raise NoDashboardError(
            "this cluster was started without a dashboard; start it with "
            "ract.init(include_dashboard=True), or rscheduler without --no-dashboard"
        )
    return address


def _key(address: str) -> str:
    from ract.core.security import TokenError, load_token

    try:
        token = load_token()
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(
            f"http://{address}/ract/key", data=b"", headers=headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)["key"]
    except TokenError as error:
        raise NoDashboardError(f"the dashboard at {address} needs the cluster's token: {error}")
    except urllib.error.HTTPError as error:
        raise NoDashboardError(f"the dashboard at {address} refused: {error.read().decode()}")
    except OSError as error:
        raise NoDashboardError(
            f"the dashboard at {address} cannot be reached from here ({error}); it listens on the "
            "scheduler's machine, for others if it was started with a host of its own "
            "(dashboard_host, rscheduler --dashboard-address)"
        )
