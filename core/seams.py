"""What lower parts may ask of higher ones: one table, and the only import by a string.

A part imports only what stands below it. A few calls have to go the other way: ``f.bind()`` is a
method of a remote function, and makes a node of a graph, which is built on remote functions. Such a
call goes through here, so that each of them can be counted, and the higher part is imported when it
is first needed.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

SEAMS = {
    "client.api": "ract.client.api.functions",
    "dag.function_node": "ract.dag.function_node:FunctionNode",
    "dag.class_node": "ract.dag.class_node:ClassNode",
    "dag.bind_method": "ract.dag.class_node:bind_method",
    "bars.handle_line": "ract.util.tqdm:handle_line",
}
"""Each name, and the module, or the object of a module, that it stands for."""


@cache
def seam(name: str) -> Any:
    """What a name of `SEAMS` stands for; it is imported at the first call."""
    module, _, attribute = SEAMS[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
