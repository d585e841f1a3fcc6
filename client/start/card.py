"""What a notebook shows of a cluster."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from ract.core.errors import RactError

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

_HIDDEN = ("node:", "memory", "object_store_memory")


def of_cluster(context: Any, runtime: Runtime | None) -> str:
    """HTML with the address, the dashboard, the namespace and the resources.

    Args:
        context: The `RactContext`.
        runtime: The connection, if it still exists.
    """
    rows = [("Address", html.escape(context["address"]))]
    url = context.dashboard_url
    if url:
        link = html.escape(url if "://" in url else f"http://{url}")
        rows.append(("Dashboard", f'<a href="{link}" target="_blank">{link}</a>'))
    if runtime is None or runtime.closed:
        rows.append(("State", "this process has left the cluster"))
    else:
        rows.append(("Namespace", html.escape(runtime.namespace)))
        rows.append(("Resources", html.escape(_resources(runtime))))
    rows.append(("Versions", f"ract {context.ract_version}, Python {context.python_version}"))
    cells = "".join(
        f'<tr><td style="text-align: left"><b>{name}</b></td>'
        f'<td style="text-align: left">{value}</td></tr>'
        for name, value in rows
    )
    return (
        '<div style="border-left: 4px solid #e8743b; padding-left: 8px"><b>ract</b>'
        f"<table>{cells}</table></div>"
    )


def _resources(runtime: Runtime) -> str:
    try:
        nodes = runtime.link.request("nodes")
        total = runtime.link.request("cluster_resources")
    except (RactError, OSError) as error:
        return f"unknown: {error}"
    alive = sum(node["Alive"] for node in nodes)
    parts = [f"{alive} node{'s' if alive != 1 else ''}"]
    parts += [
        f"{amount:g} {name}" for name, amount in total.items() if not name.startswith(_HIDDEN)
    ]
    memory = total.get("memory", 0.0)
    parts.append(f"{memory / 2**30:.1f} GiB of memory")
    return ", ".join(parts)
