"""The logs of all nodes: followed and searched."""

from __future__ import annotations

from ract.dashboard.parts import Block, Page

PAGE = Page("logs", "Logs", (Block("logs", "Logs"),))
