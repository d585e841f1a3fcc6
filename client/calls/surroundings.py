"""What those who own calls have around them: the parts of a process that stand below them.

`ract.client.runtime.Runtime` puts the parts together. Pools of tasks and lines of actors stand
below it, so they are handed it as this.
"""

from __future__ import annotations

from typing import Any, Protocol

from ract.client.calls.call import Call
from ract.client.calls.cancelling import Cancelling
from ract.client.calls.channel import Channel
from ract.client.calls.channels import Channels
from ract.client.calls.ends import Ends
from ract.client.calls.replies import Replies
from ract.client.calls.streams import Home
from ract.client.process.node_link import NodeLink
from ract.client.process.reactor import Reactor


class Surroundings(Home, Protocol):
    """The parts that owners of calls use, and short names for what they do most."""

    is_driver: bool
    process: int
    node_id: bytes
    closed: bool
    link: NodeLink
    reactor: Reactor
    channels: Channels
    cancelling: Cancelling
    replies: Replies
    ends: Ends

    def next_number(self) -> int: ...
    def check_open(self) -> None: ...
    def check_alive(self) -> None: ...
    def tell(self, *messages: Any) -> None: ...
    def warn(self, type: str, text: str) -> None: ...
    def connect(self, executor: int, node_id: bytes, address: str) -> Channel: ...
    def calls_lost(self, executor: int, lost: list[Call]) -> None: ...
    def fail_soon(self, call: Call, error: BaseException) -> None: ...
