"""Options of tasks, actors and actor methods: checked once, then frozen.

One table per kind maps an option to its default and its check. `TaskOptions` and its siblings hold
every option as an attribute and remember which ones were given, because some defaults depend on
that (an actor that asks for nothing holds no CPU while it runs).
"""

from __future__ import annotations

import difflib
import functools
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

from ract.core import labels
from ract.core import resources as res
from ract.core.session import setting

Check = Callable[[str, Any], Any]
Table = Mapping[str, tuple[Any, Check]]

BYTES_MAX = res.UNITS_MAX // res.UNIT


# --------------------------------------------------------------------------- checks


def _fail(name: str, value: Any, expected: str, *, kind: bool = False) -> None:
    error = TypeError if kind else ValueError
    got = type(value).__name__ if kind else repr(value)
    raise error(f"The option '{name}' must be {expected}, got {got}")


def _typed(*types: type, expected: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is None:
            return value
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            _fail(name, value, expected, kind=True)
        return value

    return check


def _any(name: str, value: Any) -> Any:
    return value


_bool = _typed(bool, expected="a bool")


def _dict(name: str, value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, dict):
        _fail(name, value, "a dict", kind=True)
    return dict(value)


def _str(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        _fail(name, value, "a string", kind=True)
    return value


def _non_empty(name: str, value: Any) -> Any:
    if _str(name, value) == "":
        _fail(name, value, "a non-empty string")
    return value


def _quantity(resource: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is not None:
            try:
                res.to_units(resource, value)
            except TypeError:
                _fail(name, value, "a number", kind=True)
        return value

    return check


def _memory(name: str, value: Any) -> Any:
    if value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _fail(name, value, "a number of bytes", kind=True)
    if not 0 <= value <= BYTES_MAX:
        _fail(name, value, f"a number of bytes between 0 and {BYTES_MAX}")
    return int(value)


def _integer(expected: str, least: int, *, also: tuple[Any, ...] = ()) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value in also):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            error_is_type = not isinstance(value, str) or not also
            _fail(name, value, expected, kind=error_is_type)
        if value < least:
            _fail(name, value, expected)
        return value

    return check


def _resources(name: str, value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, dict):
        _fail(name, value, "a dict of quantities by resource name", kind=True)
    for key in value:
        if not isinstance(key, str):
            _fail(name, key, "a dict with strings as keys", kind=True)
    res.demand_from_options(None, None, None, value, None)
    return dict(value)


def _retry_exceptions(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, (list, tuple)):
        _fail(name, value, "a bool or a list of exception classes", kind=True)
    for item in value:
        if not (isinstance(item, type) and issubclass(item, Exception)):
            _fail(name, item, "a bool or a list of Exception subclasses")
    return tuple(value)


def _strategy(name: str, value: Any) -> Any:
    if value is None or value in ("DEFAULT", "SPREAD"):
        return value
    if isinstance(value, str):
        _fail(name, value, "'DEFAULT', 'SPREAD' or a strategy of ract.util.scheduling_strategies")
    if not hasattr(value, "to_plain") and not hasattr(value, "placement_group"):
        _fail(name, value, "a string or a scheduling strategy", kind=True)
    return value


def _one_of(*allowed: Any) -> Check:
    def check(name: str, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            _fail(name, value, f"one of {allowed}", kind=True)
        if value is not None and value not in allowed:
            _fail(name, value, f"one of {allowed}")
        return value

    return check


_LABEL_CONDITION = re.compile(
    rf"!?({labels.NAME}|in\(\s*{labels.NAME}(\s*,\s*{labels.NAME})*\s*\))"
)


def check_label_selector(name: str, value: Any) -> Any:
    """Check a label selector: ``{key: "v" | "!v" | "in(a,b)" | "!in(a,b)"}``.

    Raises:
        TypeError: not a dict of strings. ValueError: something else than that.
    """
    if value is None:
        return value
    if not isinstance(value, dict):
        _fail(name, value, "a dict of strings", kind=True)
    for key, condition in value.items():
        for text in (key, condition):
            if not isinstance(text, str):
                _fail(name, text, "a dict of strings", kind=True)
        if not labels.KEY.fullmatch(key):
            _fail(name, key, "labels by their names: letters, digits, '-', '_', '.', and a prefix")
        if not _LABEL_CONDITION.fullmatch(condition):
            _fail(f"{name}[{key!r}]", condition, "like 'v', '!v', 'in(v,w)' or '!in(v,w)'")
    return dict(value)


def _fallbacks(name: str, value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, list):
        _fail(name, value, "a list of dicts", kind=True)
    for each in value:
        if not isinstance(each, dict) or set(each) != {"label_selector"}:
            _fail(name, each, "a list of {'label_selector': {...}}")
        check_label_selector(f"{name}: label_selector", each["label_selector"])
    return [dict(each) for each in value]


def _groups(name: str, value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, dict):
        _fail(name, value, "a dict of limits by group name", kind=True)
    for group, limit in value.items():
        if not isinstance(group, str):
            _fail(name, group, "a dict with strings as keys", kind=True)
        if isinstance(limit, bool) or not isinstance(limit, int):
            _fail(f"{name}[{group!r}]", limit, "an int", kind=True)
        if limit < 1:
            _fail(f"{name}[{group!r}]", limit, "1 or more")
    return dict(value)


def _seconds(name: str, value: Any) -> Any:
    if value is None:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _fail(name, value, "a number of seconds", kind=True)
    if not value > 0:  # NaN too
        _fail(name, value, "more than 0 seconds")
    return value


def _place(name: str, value: Any) -> Any:
    if _non_empty(name, value) is None:
        return value
    protocol, separator, _ = value.partition("://")
    if not separator and not value.startswith("/"):
        _fail(name, value, "an absolute path or a URL")
    if separator and protocol == "memory":
        _fail(name, value, "a place that outlives a process")
    return value


def _runtime_env(name: str, value: Any) -> Any:
    if value is None:
        return value
    if not isinstance(value, dict):
        _fail(name, value, "a dict or a RuntimeEnv", kind=True)
    return value


def _backpressure(name: str, value: Any) -> Any:
    if _any_backpressure(name, value) == 0:
        _fail(name, value, "None, -1 or a positive integer")
    return value


_max_calls = _integer("None, 0 or a positive integer", 0)
_retries = _integer("None, -1, 0 or a positive integer", -1)
_num_returns = _integer(
    "0, a positive integer, 'streaming' or 'dynamic'", 0, also=("streaming", "dynamic")
)
_any_backpressure = _integer("None, -1 or a positive integer", -1)

# --------------------------------------------------------------------------- the tables

_COMMON: Table = {
    "num_cpus": (None, _quantity("CPU")),
    "num_gpus": (None, _quantity("GPU")),
    "resources": (None, _resources),
    "memory": (None, _memory),
    "accelerator_type": (None, _str),
    "label_selector": (None, check_label_selector),
    "fallback_strategy": (None, _fallbacks),
    "name": (None, _str),
    "runtime_env": (None, _runtime_env),
    "scheduling_strategy": (None, _strategy),
    "placement_group": ("default", _any),
    "placement_group_bundle_index": (-1, _integer("-1 or more", -1)),
    "placement_group_capture_child_tasks": (None, _bool),
    "on_infeasible": (None, _one_of("wait", "raise")),
    "enable_task_events": (True, _bool),
    "_labels": (None, _dict),
    "_metadata": (None, _dict),
    "timeout": (None, _seconds),
    "priority": (0, _integer("an integer", -(2**31))),
}

_TASK: Table = {
    **_COMMON,
    "num_returns": (None, _num_returns),
    "max_calls": (None, _max_calls),
    "max_retries": (int(setting("TASK_MAX_RETRIES", "3") or 3), _retries),
    "retry_exceptions": (False, _retry_exceptions),
    "_generator_backpressure_num_objects": (None, _backpressure),
}

_ACTOR: Table = {
    **_COMMON,
    "max_restarts": (0, _retries),
    "max_task_retries": (0, _retries),
    "max_pending_calls": (-1, _integer("-1, 0 or a positive integer", -1)),
    "max_concurrency": (None, _integer("None, 0 or a positive integer", 0)),
    "concurrency_groups": (None, _groups),
    "lifetime": (None, _one_of("detached", "non_detached")),
    "namespace": (None, _non_empty),
    "get_if_exists": (False, _bool),
    "object_store_memory": (None, _memory),
    "allow_out_of_order_execution": (None, _bool),
    "enable_tensor_transport": (None, _bool),
    "mailbox_size": (None, _integer("None or a positive integer", 1)),
    "on_full": (None, _one_of("block", "raise", "shed")),
    "interruptible": (False, _bool),
    "durable": (None, _one_of("interval", "call")),
    "durable_interval_s": (1.0, _seconds),
    "durable_path": (None, _place),
}

_METHOD: Table = {
    "name": (None, _str),
    "num_returns": (None, _num_returns),
    "concurrency_group": (None, _str),
    "max_task_retries": (None, _retries),
    "retry_exceptions": (False, _retry_exceptions),
    "enable_task_events": (None, _bool),
    "_generator_backpressure_num_objects": (None, _backpressure),
    "tensor_transport": (None, _any),
    "timeout": (None, _seconds),
    "priority": (0, _integer("an integer", -(2**31))),
}

_DEPRECATED = {"num_return_vals": "num_returns", "checkpoint_interval": None}


def _checked(kind: str, table: Table, given: dict[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    for name, value in given.items():
        if name in _DEPRECATED:
            name_now = _DEPRECATED[name]
            warnings.warn(f"the option {name!r} is deprecated", DeprecationWarning, stacklevel=5)
            if name_now is None:
                continue
            if name_now in given:
                raise ValueError(f"{name!r} is the old name of {name_now!r}: give only one")
            name = name_now
        elif name.startswith("num_custom_") and "resources" in table:
            warnings.warn("use the option 'resources'", DeprecationWarning, stacklevel=5)
            resource = "".join(p.capitalize() for p in name.removeprefix("num_").split("_"))
            custom[resource] = value
            continue
        entry = table.get(name)
        if entry is None:
            close = difflib.get_close_matches(name, table, 3)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"Invalid option keyword {name!r} (value {value!r}) for {kind}.{hint}")
        checked[name] = entry[1](name, value)
    if custom:
        checked["resources"] = _resources(
            "resources", {**(checked.get("resources") or {}), **custom}
        )
    return checked


_INSTALLERS = ("pip", "uv", "conda")
"""Of these an environment has one at most."""


def _merged_env(old: Any, new: Any) -> Any:
    if not old or not new:
        return new
    displaced = _INSTALLERS if any(new.get(name) for name in _INSTALLERS) else ()
    merged = {**{name: v for name, v in old.items() if name not in displaced}, **new}
    if "env_vars" in merged:
        merged["env_vars"] = {**(old.get("env_vars") or {}), **(new.get("env_vars") or {})}
    return merged


# --------------------------------------------------------------------------- the option objects


class _Options:
    """Options by attribute; ``given`` names those that were given, with their values."""

    _KIND = ""
    _TABLE: Table = {}
    _DECORATOR_ONLY: tuple[str, ...] = ()

    def __init__(self, checked: dict[str, Any]) -> None:
        self.given = checked

    def __getattr__(self, name: str) -> Any:
        entry = self._TABLE.get(name)
        if entry is None:
            raise AttributeError(name)
        value = self.given.get(name)
        value = entry[0] if value is None else value
        self.__dict__[name] = value  # looked up once
        return value

    def given_values(self) -> dict[str, Any]:
        """What was given, by name."""
        return self.given

    def merged(self, **overrides: Any) -> Self:
        """These options with others over them; None resets an option to its default."""
        if not overrides:
            return self
        for name in self._DECORATOR_ONLY:
            if name in overrides:
                raise ValueError(
                    f"Setting {name!r} is not supported in '.options()'; give it to @ract.remote"
                )
        new = _checked(self._KIND, self._TABLE, overrides)
        if "runtime_env" in new:
            new["runtime_env"] = _merged_env(self.given.get("runtime_env"), new["runtime_env"])
        merged = type(self)({**self.given, **new})
        merged.check_together()
        return merged

    def check_together(self) -> None:
        """Check options against each other."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.given,)

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
        return f"{type(self).__name__}({listed})"


def _check_strategy(options: _Options) -> None:
    given = options.given
    if given.get("scheduling_strategy") is not None and given.get("placement_group") not in (
        None,
        "default",
    ):
        raise ValueError("give either 'scheduling_strategy' or 'placement_group', not both")


class TaskOptions(_Options):
    """Options of a task."""

    _KIND = "tasks"
    _TABLE = _TASK
    _DECORATOR_ONLY = ("max_calls",)

    def check_together(self) -> None:
        _check_strategy(self)

    @functools.cached_property
    def demand(self) -> dict[str, int]:
        """What it takes to run, in units."""
        return res.demand_from_options(
            self.num_cpus,
            self.num_gpus,
            self.memory,
            self.resources,
            self.accelerator_type,
            default_cpus=1,
        )

    @functools.cached_property
    def max_calls(self) -> int:
        """Runs of the function in one process; 1 for tasks with GPUs, so that they let go."""
        given = self.given.get("max_calls")
        return given if given is not None else int(bool(self.num_gpus))


class ActorOptions(_Options):
    """Options of an actor."""

    _KIND = "actors"
    _TABLE = _ACTOR
    _DECORATOR_ONLY = ("concurrency_groups",)

    def check_together(self) -> None:
        _check_strategy(self)
        if self.get_if_exists and not self.name:
            raise ValueError("'get_if_exists' needs a 'name' to look for")
        if self.given.get("name") == "":
            raise ValueError("'' is not a valid name for an actor")
        self._check_durable()

    def _check_durable(self) -> None:
        given = self.given
        if self.durable is None:
            for name in ("durable_interval_s", "durable_path"):
                if given.get(name) is not None:
                    raise ValueError(f"'{name}' is for durable actors: give durable=... too")
        elif self.durable == "call":
            if given.get("durable_interval_s") is not None:
                raise ValueError("'durable_interval_s' is for durable='interval', not for 'call'")
            if (self.max_concurrency or 1) > 1 or self.concurrency_groups:
                raise ValueError(
                    "durable='call' is for actors that run one call at a time: the state after a "
                    "call must not contain parts of others; drop 'max_concurrency' and "
                    "'concurrency_groups', or use durable='interval'"
                )

    @property
    def _asks(self) -> bool:
        names = ("num_cpus", "num_gpus", "resources", "accelerator_type")
        return any(self.given.get(name) is not None for name in names)

    @functools.cached_property
    def placement_demand(self) -> dict[str, int]:
        """What must be free to place it: 1 CPU if it asks for nothing."""
        return self._demand(default_cpus=1)

    @functools.cached_property
    def running_demand(self) -> dict[str, int]:
        """What it holds for life: no CPU if it asks for nothing."""
        return self._demand(default_cpus=1 if self._asks else 0)

    def _demand(self, default_cpus: float) -> dict[str, int]:
        return res.demand_from_options(
            self.num_cpus,
            self.num_gpus,
            self.memory,
            self.resources,
            self.accelerator_type,
            default_cpus=default_cpus,
        )


class MethodOptions(_Options):
    """Options of calls of an actor method."""

    _KIND = "actor methods"
    _TABLE = _METHOD


def task_options(**given: Any) -> TaskOptions:
    """Check the options of a task.

    Raises:
        ValueError: an unknown option or a bad value. TypeError: a value of a wrong type.
    """
    options = TaskOptions(_checked("tasks", _TASK, given))
    options.check_together()
    return options


def actor_options(**given: Any) -> ActorOptions:
    """Check the options of an actor; raises as `task_options`."""
    options = ActorOptions(_checked("actors", _ACTOR, given))
    options.check_together()
    return options


def method_options(**given: Any) -> MethodOptions:
    """Check the options of an actor method; raises as `task_options`."""
    return MethodOptions(_checked("actor methods", _METHOD, given))
