"""``ray._private.async_compat``: what is a coroutine function."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

__all__ = ["get_new_event_loop", "has_async_methods", "is_async_func"]


def is_async_func(func: Any) -> bool:
    """Whether calling it makes a coroutine or an asynchronous generator."""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def has_async_methods(cls: type) -> bool:
    """Whether a class has a method of that kind."""
    return any(is_async_func(value) for _, value in inspect.getmembers(cls, inspect.isfunction))


def get_new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop."""
    return asyncio.new_event_loop()
