"""Joining a cluster, or starting one: ``ract.init``."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ract.client.people import logging_config as logs
from ract.client.process import context
from ract.client.start import places
from ract.client.start.facts import RactContext
from ract.client.start.membership import membership
from ract.client.start.older import from_older
from ract.core import naming
from ract.core.session import set_switch_interval, setting, use_system_config
from ract.core.version import __version__
from ract.worker.hardware import isolation

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

logger = logging.getLogger(__name__)

SHIM = os.path.join("compat", "shim")
"""Where a ported program's processes find ``ray``: see `ract.compat.ray`."""

_PRIVATE = {
    "_enable_object_reconstruction",
    "_plasma_directory",
    "_node_ip_address",
    "_driver_object_store_memory",
    "_memory",
    "_redis_username",
    "_redis_password",
    "_temp_dir",
    "_metrics_export_port",
    "_system_config",
    "_tracing_startup_hook",
    "_node_name",
    "_skip_env_hook",
}


def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    object_spilling_directory: str | Sequence[str] | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: Any = "info",
    logging_format: str | None = None,
    logging_config: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: Any = None,
    enable_resource_isolation: bool = False,
    cgroup_path: str | None = None,
    system_reserved_cpu: float | None = None,
    system_reserved_memory: int | None = None,
    token_file: str | None = None,
    on_infeasible: str = "wait",
    **kwargs: Any,
) -> RactContext:
    """Start an embedded cluster, or join one; then tasks and actors can be used.

    Args:
        address: ``None``: ``$RACT_ADDRESS``, else start an embedded cluster; ``"local"``: always
            start one; ``"auto"``: join the newest cluster on this machine;
            ``"tls://host:port"``: join that one.
        num_cpus: CPUs that the embedded node offers; default: those this process may use.
        num_gpus: GPUs that it offers; default: those that are visible.
        resources: Custom resources that it offers, by name.
        labels: Labels of the node.
        object_store_memory: Bytes of shared memory for objects.
        object_spilling_directory: Where objects go that have no room in it: absolute paths of
            folders, or URLs for fsspec; several as a list or separated by commas. Default: the
            session's directory.
        local_mode: Start no cluster: tasks and actors run in this process, one after another, for
            debugging.
        ignore_reinit_error: Return the existing context instead of raising when called twice.
        include_dashboard: Serve the dashboard (default: yes, lazily).
        dashboard_host: Where it listens.
        dashboard_port: Its port; default: 8265, or any free one.
        job_config: A `ract.client.start.job_config.JobConfig`.
        logging_config: A `ract.LoggingConfig`: how the driver, tasks and actors log.
        configure_logging: Set ract's own logger up as the next two say.
        logging_level: From which level on it logs in this process; a name or a number.
        logging_format: Its format, as for `logging.Formatter`; default: that of the program.
        log_to_driver: Print what tasks and actors print (default: yes).
        namespace: Where names of actors live; default: one of this job's own.
        runtime_env: Environment of the job's tasks and actors.
        enable_resource_isolation: Keep CPU and memory for the node's own processes, in control
            groups (version 2).
        cgroup_path: Where it may make them; default: ``/sys/fs/cgroup``.
        system_reserved_cpu: CPUs to keep; default: 5 %, at least 1 and at most 3.
        system_reserved_memory: Bytes to keep; default: 10 %, at least 0.5 and at most 10 GiB.
        token_file: The join token, if it is not in ``$RACT_TOKEN`` or the default file.
        on_infeasible: What becomes of tasks, actors and placement groups that no node could ever
            hold: ``"wait"``: they wait for nodes that join, with a warning; ``"raise"``: they fail.

    Returns:
        A context: a mapping of addresses, and a context manager that shuts down at its end.

    Raises:
        RuntimeError: called twice, an unknown keyword, or resource isolation is not possible.
        ConnectionError: no cluster at the address.
        AuthenticationError: the cluster has another join token.
        TypeError, ValueError: a bad quantity of a resource, a bad label, or more accelerators than
            this process may see.
        ValueError: node resources together with an address, or a malformed address.
    """
    address, log_to_driver, local_mode = from_older(kwargs, address, log_to_driver, local_mode)
    _check(kwargs, namespace)

    def connect() -> tuple[Runtime, RactContext]:
        if configure_logging:
            logs.configure(logging_level, logging_format)
        config = logs.chosen(logging_config, job_config)
        hook = kwargs.get("_tracing_startup_hook")
        metadata = _metadata(job_config, on_infeasible, hook, config)
        isolated = isolation.asked(
            enable_resource_isolation, cgroup_path, system_reserved_cpu, system_reserved_memory
        )
        node = places.described(
            num_cpus,
            num_gpus,
            resources,
            labels,
            object_store_memory,
            kwargs.get("_memory"),
            object_spilling_directory,
            isolated,
        )
        space = namespace or getattr(job_config, "ray_namespace", None)
        if local_mode:
            return _local(address, space, node)
        dashboard = None if include_dashboard is False else (dashboard_host, dashboard_port)
        place = places.find(address, node, dashboard, token_file, kwargs)
        env = runtime_env or getattr(job_config, "runtime_env", None)
        runtime = _connect(place, space, env, token_file, metadata)
        runtime.on_infeasible = on_infeasible
        _show_output(runtime, log_to_driver, config)
        if config is not None:
            config.apply()
        return runtime, RactContext(runtime, place.get("dashboard_url", ""))

    if context.process.is_executor:
        runtime = membership.runtime()
        assert runtime is not None, "an executor is in a cluster from its beginning to its end"
        return RactContext(runtime, "")
    made: RactContext = membership.join(connect, again=ignore_reinit_error)
    return made


def joined() -> Runtime:
    """The runtime of this process; `init` is called if there is none.

    Raises:
        RuntimeError: the interpreter ends.
    """
    found: Runtime = membership.joined(init)
    return found


def _metadata(job_config: Any, on_infeasible: str, hook: str | None, config: Any) -> dict[str, str]:
    """What the job says of itself, for its executors. Raises ValueError."""
    metadata = dict(getattr(job_config, "metadata", None) or {})
    lifetime = getattr(job_config, "_default_actor_lifetime", "non_detached")
    metadata["default_actor_lifetime"] = lifetime
    if on_infeasible not in ("wait", "raise"):
        raise ValueError(f"on_infeasible must be 'wait' or 'raise', got {on_infeasible!r}")
    metadata["on_infeasible"] = on_infeasible
    hook = hook or setting("TRACING_STARTUP_HOOK")
    if hook:
        from ract.client.process import tracing

        tracing.start(hook)
        metadata["tracing_startup_hook"] = hook
    if config is not None:
        metadata["logging_config"] = json.dumps(config.to_dict())
    return metadata


def _local(
    address: str | None, namespace: str | None, node: dict[str, Any]
) -> tuple[Any, RactContext]:
    """Start no cluster: see `ract.client.local.mode`. Raises ValueError."""
    if address not in (None, "local"):
        raise ValueError(f"local_mode=True starts no cluster and joins none: address={address!r}")
    from ract.client.local.mode import LocalRuntime

    cpus = node.get("num-cpus", os.cpu_count() or 1)
    offer = {"CPU": cpus, "GPU": node.get("num-gpus", 0), **node.get("resources", {})}
    runtime: Any = LocalRuntime(namespace, {k: float(v) for k, v in offer.items() if v})
    return runtime, RactContext(runtime, "")


def _show_output(runtime: Runtime, log_to_driver: bool | None, config: Any) -> None:
    """Have what tasks and actors print printed here, unless that is not wanted."""
    from ract.client.people.driver_output import DriverOutput

    output = DriverOutput(
        _wants_logs(log_to_driver),
        runtime.link.welcome.config.get("host", ""),
        has_records=config is not None and config.encoding == "JSON",
    )
    runtime.on_control = output.receive
    runtime.on_tick = output.tick
    runtime.on_close = output.close


def _wants_logs(given: bool | None) -> bool:
    """Whether lines of tasks are printed: as given, else by ``RACT_LOG_TO_DRIVER``, else yes."""
    return setting("LOG_TO_DRIVER", "1") != "0" if given is None else given


def _check(kwargs: dict[str, Any], namespace: Any) -> None:
    unknown = [key for key in kwargs if key not in _PRIVATE]
    if unknown:
        known = list(inspect.signature(init).parameters)
        hints = [f"{key!r}" for key in unknown]
        close = [c for key in unknown for c in difflib.get_close_matches(key, known, 1)]
        did_you_mean = f" Did you mean {', '.join(close)}?" if close else ""
        raise RuntimeError(
            f"Unknown keyword argument(s) to init: {', '.join(hints)}.{did_you_mean}"
        )
    if namespace is not None and not isinstance(namespace, str):
        raise TypeError(f"namespace must be a string, not {type(namespace).__name__}")
    if namespace == "":
        raise ValueError('"" is not a valid namespace. Pass None for one of this job\'s own.')


def _connect(
    place: dict[str, Any],
    namespace: str | None,
    runtime_env: Any,
    token_file: str | None,
    metadata: dict[str, str],
) -> Runtime:
    from ract.client.process.node_link import NodeLink
    from ract.client.runtime import Runtime
    from ract.client.tasks.strategies import canonical_env
    from ract.core.messages import Hello

    fingerprint = ""
    if token_file is not None or "RACT_TOKEN" in os.environ:
        from ract.core import security

        fingerprint = security.fingerprint(security.load_token(token_file))
    expected = place.get("token_fingerprint", "")
    if fingerprint and expected and fingerprint != expected:
        from ract.core.errors import AuthenticationError

        raise AuthenticationError(
            "the token given (RACT_TOKEN or token_file) is not the join token of the cluster at "
            f"{place['scheduler_address']}"
        )
    hello = Hello(
        kind="driver",
        pid=os.getpid(),
        namespace=namespace or "",
        token_fingerprint=fingerprint,
        ract_version=__version__,
        python_version=platform.python_version(),
        entrypoint=" ".join(sys.argv),
        runtime_env=canonical_env(runtime_env),
        metadata={
            **{str(name): str(value) for name, value in metadata.items()},
            "sys_path": json.dumps(_import_paths()),
            "names": naming.program,
        },
    )
    link = NodeLink(os.path.join(place["session_dir"], "node.sock"), hello)
    use_system_config(link.welcome.config.get("system_config", {}))
    set_switch_interval()
    runtime = Runtime(link, is_driver=True)
    runtime.runtime_env = canonical_env(runtime_env)
    runtime.default_lifetime = metadata["default_actor_lifetime"]
    return runtime


def _import_paths() -> list[str]:
    """The driver's script folder and working directory: executors import from there too."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    paths = [os.path.dirname(os.path.abspath(script))] if script else []
    paths += [path for path in sys.path if path.endswith(SHIM)]
    return list(dict.fromkeys([*paths, os.getcwd()]))
