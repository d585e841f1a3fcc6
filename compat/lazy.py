"""Packages of ported modules have these as attributes, as Ray's packages have without an import."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType


def submodules(package: str) -> Callable[[str], ModuleType]:
    """A ``__getattr__`` for a package: what is asked for and is a module of it is imported."""

    def find(name: str) -> ModuleType:
        missing = f"module {package!r} has no attribute {name!r}"
        if name.startswith("__"):
            raise AttributeError(missing)
        try:
            return importlib.import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise
            raise AttributeError(missing) from None

    return find
