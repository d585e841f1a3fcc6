"""Marks for the parts of an interface: public, for developers, deprecated."""

from __future__ import annotations

import enum
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

STABILITIES = ("alpha", "beta", "stable")


class RayDeprecationWarning(DeprecationWarning):
    """Something that is used will go away. Unlike its base class it is shown by default."""


warnings.filterwarnings("default", category=RayDeprecationWarning)


class AnnotationType(enum.Enum):
    """What an object was marked as."""

    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


def PublicAPI(*args: Any, stability: str = "stable", api_group: str = "Others") -> Any:
    """Mark a function or class as public. Used bare or with arguments.

    Args:
        stability: "stable", "beta" or "alpha"; the docstring tells of the latter two.
        api_group: The heading in a reference under which it belongs.

    Raises:
        ValueError: another stability.
    """
    if _is_bare(args):
        return PublicAPI()(args[0])
    if stability not in STABILITIES:
        raise ValueError(f"stability must be one of {', '.join(STABILITIES)}, not {stability!r}")

    def mark(thing: Any) -> Any:
        if stability != "stable":
            note = f"This API is in {stability} and may change before becoming stable."
            _add_to_docstring(thing, f"**PublicAPI ({stability}):** {note}")
        return _marked(thing, AnnotationType.PUBLIC_API, api_group)

    return mark


def DeveloperAPI(*args: Any, api_group: str = "Others") -> Any:
    """Mark a function or class as meant for people who build on ract. Used bare or called."""
    if _is_bare(args):
        return DeveloperAPI()(args[0])

    def mark(thing: Any) -> Any:
        _add_to_docstring(thing, "**DeveloperAPI:** This API may change between minor releases.")
        return _marked(thing, AnnotationType.DEVELOPER_API, api_group)

    return mark


def Deprecated(*args: Any, message: str = "", warning: bool = False) -> Any:
    """Mark a function or class as deprecated. Used bare or with arguments.

    Args:
        message: What to use instead; shown in the docstring and the warning.
        warning: Also warn, with `RayDeprecationWarning`, at every call.
    """
    if _is_bare(args):
        return Deprecated()(args[0])
    text = "This API is deprecated and may be removed in a later release."
    if message:
        text += f"\n{message}"

    def mark(thing: Any) -> Any:
        body = text.replace("\n", "\n    ")
        _add_to_docstring(thing, f".. warning::\n\n    **DEPRECATED**: {body}")
        if warning:
            thing = _warning(thing, text)
        return _marked(thing, AnnotationType.DEPRECATED, "Others")

    return mark


def _is_bare(args: tuple[Any, ...]) -> bool:
    """Whether a decorator was used without parentheses."""
    if args and not (len(args) == 1 and callable(args[0])):
        raise TypeError("the arguments of this decorator must be given by name")
    return bool(args)


def _warning(thing: Any, text: str) -> Any:
    """The function, or the class with a constructor, that warns."""
    if not inspect.isclass(thing):
        return _warning_function(thing, text)
    # A class must stay the same class: others may inherit from it, and it is pickled by name.
    thing.__init__ = _warning_function(thing.__init__, text)  # type: ignore[method-assign]
    return thing


def _warning_function(function: Callable[..., Any], text: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def warn_and_call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(text, RayDeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return warn_and_call


def _add_to_docstring(thing: Any, paragraph: str) -> None:
    doc = inspect.cleandoc(thing.__doc__) if thing.__doc__ else ""
    thing.__doc__ = f"{doc}\n\n{paragraph}\n" if doc else f"{paragraph}\n"


def _marked(thing: Any, kind: AnnotationType, api_group: str) -> Any:
    thing._annotated = thing.__name__
    thing._annotated_type = kind
    thing._annotated_api_group = api_group
    return thing
