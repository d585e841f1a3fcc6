"""Makes ``import ray`` mean ract, in this process and in those that it starts.

::

    import ract.compat.ray  # first
    import ray

or, for a program that is not to be changed, ``ract run --ray program.py``.

Theory of operation
-------------------
A finder ahead of all others answers for ``ray`` and what is below it. ``ray.x`` is ``ract.x``, the
same module, so that classes are the same under both names; else the module that
`ract.compat.ported` has for it, for what only Ray's name makes sense of. What is in neither raises
ModuleNotFoundError with the name.

Processes that this one starts, executors among them, find ``ray`` on their path as the package in
``ract/compat/shim``, which imports this module.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import ract
from ract.core import naming

RAY_VERSION = "2.60.0"
"""The release of Ray whose interface ract has; programs compare it with what they need."""

SHIM = str(Path(__file__).with_name("shim"))

PUBLIC = {
    "actor",
    "autoscaler",
    "cloudpickle",
    "cross_language",
    "dag",
    "exceptions",
    "experimental",
    "job_submission",
    "runtime_env",
    "util",
}
"""Modules of ract that are Ray's too; others, like ``ract.worker``, are something else there."""


class _Ray(ModuleType):
    """The module ``ray``: what ract has, with Ray's version, and room for what programs set."""

    def __getattr__(self, name: str) -> Any:
        if name == "client":  # a function there, a part of the code here
            return importlib.import_module("ract.compat.ported.client_builder").client
        try:
            found = getattr(ract, name)
        except AttributeError:
            found = None
        if found is not None and not (isinstance(found, ModuleType) and name not in PUBLIC):
            return found
        try:
            return importlib.import_module(f"ray.{name}")
        except ModuleNotFoundError:
            raise AttributeError(
                f"module 'ray' has no attribute {name!r}: ract, which stands in for Ray here, "
                "does not have it"
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(ract)})


class _Finder:
    """Finds ``ray`` and its modules."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of Ray.

        Raises:
            ModuleNotFoundError: a module of Ray that ract has not.
        """
        if name == "ray":
            return ModuleSpec(name, cls, is_package=True)  # type: ignore[arg-type]
        if not name.startswith("ray."):
            return None
        real = _real_name(name.removeprefix("ray."))
        if real is None:
            raise ModuleNotFoundError(
                f"ract, which stands in for Ray here, has no module {name!r}", name=name
            )
        return ModuleSpec(name, cls, loader_state=real, is_package=True)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """A module, which for all but ``ray`` itself is only a stand-in while it is imported."""
        module = _Ray(spec.name)
        if spec.name == "ray":
            module.__version__ = RAY_VERSION  # type: ignore[attr-defined]
            module.__doc__ = ract.__doc__
        return module

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Put the real module in the place of the stand-in."""
        assert module.__spec__ is not None
        real = module.__spec__.loader_state
        if real is not None:
            sys.modules[module.__name__] = importlib.import_module(real)


def _real_name(part: str) -> str | None:
    """The module of ract that is ``ray.<part>``."""
    candidates = [f"ract.compat.ported.{part}"]
    if part.split(".")[0] in PUBLIC:
        candidates.insert(0, f"ract.{part}")
    for candidate in candidates:
        try:
            if importlib.util.find_spec(candidate) is not None:
                return candidate
        except ModuleNotFoundError:  # nor its parent
            continue
    return None


def install() -> None:
    """Answer for ``ray`` from here on. Idempotent.

    Raises:
        ImportError: Ray itself is imported already.
    """
    present = sys.modules.get("ray")
    if present is not None and not isinstance(present, _Ray) and not _is_shim(present):
        raise ImportError("Ray itself is imported already: import ract.compat.ray before it")
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    naming.speak_of_ray()
    if SHIM not in sys.path:
        sys.path.append(SHIM)  # `init` sends it to executors on other nodes
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if SHIM not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([SHIM, *filter(None, paths)])


def _is_shim(module: ModuleType) -> bool:
    return (getattr(module, "__file__", None) or "").startswith(SHIM)


install()
