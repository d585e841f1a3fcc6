"""Starting, joining and leaving a cluster: ``ract.init`` and ``ract.shutdown``.

Without an address a head process is started for this driver and ends with it. With one, the driver
attaches to the node of that cluster on this machine, found by its ``node.json``; if there is none,
a node without CPUs is started here for as long as the driver lives.
"""

from __future__ import annotations

import atexit
import difflib
import json
import logging
import os
import platform
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ract.client.process import context, current
from ract.client.start import node_processes
from ract.client.start.node_processes import NodeProcess
from ract.core import naming
from ract.core.seams import seam
from ract.core.session import set_switch_interval, setting, use_system_config
from ract.core.system_config import as_environment, settings
from ract.core.version import __version__
from ract.worker.hardware import isolation
from ract.worker.hardware.options import check

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

logger = logging.getLogger(__name__)

DASHBOARD_PORT = 8265
STORE_BYTES_MIN = 75 * 2**20
SHIM = os.path.join("compat", "shim")
"""Where a ported program's processes find ``ray``: see `ract.compat.ray`."""

JOIN_TIMEOUT_S = 10.0
"""How long a driver waits for a scheduler to be there."""

_lock = threading.RLock()
_started: NodeProcess | None = None

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


class RactContext(Mapping[str, Any]):
    """What `init` returns: facts about the cluster; as a context manager it shuts down at its end.

    Attributes:
        dashboard_url: A link to the dashboard, if this call has started the cluster and there is
            one, else "": `ract.dashboard.display` makes links to that of any cluster.
        address_info: Addresses and paths, also by ``ctx[key]``.
    """

    def __init__(self, runtime: Runtime, dashboard_url: str) -> None:
        welcome = runtime.link.welcome
        self.dashboard_url = dashboard_url
        self.python_version = platform.python_version()
        self.ract_version = self.ray_version = __version__
        self.ract_commit = self.ray_commit = ""
        self.address_info: dict[str, Any] = {
            "node_ip_address": "127.0.0.1",
            "raylet_ip_address": "127.0.0.1",
            "redis_address": None,
            "object_store_address": welcome.session_dir,
            "raylet_socket_name": os.path.join(welcome.session_dir, "node.sock"),
            "webui_url": dashboard_url,
            "session_dir": welcome.session_dir,
            "metrics_export_port": urlsplit(dashboard_url).port,
            "gcs_address": welcome.scheduler_address,
            "address": welcome.scheduler_address,
            "dashboard_agent_listen_port": None,
            "node_id": welcome.node_id.hex(),
        }

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __enter__(self) -> RactContext:
        return self

    def __exit__(self, *exc: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def _repr_html_(self) -> str:
        """A card for notebooks: where the cluster is, and what it has."""
        from ract.client.start import card

        return card.of_cluster(self, _connected())

    def __repr__(self) -> str:
        return f"RactContext(address={self['address']!r}, dashboard_url={self.dashboard_url!r})"


_context: RactContext | None = None


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
    global _context
    with _lock:
        existing = _connected()
        if existing is not None and not existing.closed:
            if ignore_reinit_error or context.process.is_executor:
                assert _context is not None or context.process.is_executor
                return _context if _context is not None else RactContext(existing, "")
            raise RuntimeError(
                "Maybe you called ract.init twice by accident? This process is already connected. "
                "Call ract.shutdown() first, or pass ignore_reinit_error=True."
            )
        address, log_to_driver, local_mode = _from_older(kwargs, address, log_to_driver, local_mode)
        _check(kwargs, namespace)
        if job_config is not None:
            namespace = namespace or getattr(job_config, "ray_namespace", None)
            runtime_env = runtime_env or getattr(job_config, "runtime_env", None)
        metadata = dict(getattr(job_config, "metadata", None) or {})
        lifetime = getattr(job_config, "_default_actor_lifetime", "non_detached")
        metadata["default_actor_lifetime"] = lifetime
        if on_infeasible not in ("wait", "raise"):
            raise ValueError(f"on_infeasible must be 'wait' or 'raise', got {on_infeasible!r}")
        metadata["on_infeasible"] = on_infeasible
        hook = kwargs.get("_tracing_startup_hook") or setting("TRACING_STARTUP_HOOK")
        if hook:
            from ract.client.process import tracing

            tracing.start(hook)
            metadata["tracing_startup_hook"] = hook
        from ract.client.people import logging_config as logs

        if configure_logging:
            logs.configure(logging_level, logging_format)
        config = logs.chosen(logging_config, job_config)
        if config is not None:
            metadata["logging_config"] = json.dumps(config.to_dict())
        node = _described(
            num_cpus,
            num_gpus,
            resources,
            labels,
            object_store_memory,
            kwargs.get("_memory"),
            object_spilling_directory,
            isolation.asked(
                enable_resource_isolation, cgroup_path, system_reserved_cpu, system_reserved_memory
            ),
        )
        if local_mode:
            return _init_local(address, namespace, node)
        address = resolve(address)
        if address is not None and node:
            given = ", ".join(sorted(key.replace("-", "_") for key in node))
            raise ValueError(
                f"{given}: cannot be given when joining a cluster; they describe a new node. "
                "Start one with rworker."
            )
        if address is None:
            system_config = kwargs.get("_system_config")
            settings(system_config, os.environ)  # raises here what it would raise there
            check(node, {**os.environ, **as_environment(system_config)})
            node |= {"is-head": True, "name": kwargs.get("_node_name") or ""}
            port = None if include_dashboard is False else (dashboard_host, dashboard_port)
            place = _start_embedded(node, port, system_config)
        else:
            place = node_processes.local_node(address) or _join_machine(address, token_file)
        try:
            runtime = _connect(place, namespace, runtime_env, token_file, metadata)
        except BaseException:
            _stop_started()
            raise
        from ract.client.people.driver_output import DriverOutput

        output = DriverOutput(
            _wants_logs(log_to_driver),
            runtime.link.welcome.config.get("host", ""),
            has_records=config is not None and config.encoding == "JSON",
        )
        runtime.on_control = output.receive
        runtime.on_tick = output.tick
        runtime.on_close = output.close
        current.install(runtime)
        runtime.on_infeasible = on_infeasible
        runtime.start()
        if config is not None:
            config.apply()
        _context = RactContext(runtime, place.get("dashboard_url", ""))
        return _context


def _init_local(address: str | None, namespace: str | None, node: dict[str, Any]) -> RactContext:
    """Start no cluster: see `ract.client.local.mode`. Raises ValueError."""
    global _context
    if address not in (None, "local"):
        raise ValueError(f"local_mode=True starts no cluster and joins none: address={address!r}")
    from ract.client.local.mode import LocalRuntime

    cpus = node.get("num-cpus", os.cpu_count() or 1)
    offer = {"CPU": cpus, "GPU": node.get("num-gpus", 0), **node.get("resources", {})}
    runtime: Any = LocalRuntime(namespace, {k: float(v) for k, v in offer.items() if v})
    current.install(runtime)
    _context = RactContext(runtime, "")
    return _context


def _wants_logs(given: bool | None) -> bool:
    """Whether lines of tasks are printed: as given, else by ``RACT_LOG_TO_DRIVER``, else yes."""
    return setting("LOG_TO_DRIVER", "1") != "0" if given is None else given


def _described(
    num_cpus: Any,
    num_gpus: Any,
    resources: Any,
    labels: Any,
    store: Any,
    memory: Any,
    spilling_directory: Any,
    isolated: Any,
) -> dict[str, Any]:
    """The options of a new node, those that are given. Raises ValueError."""
    if store is not None and store < STORE_BYTES_MIN:
        raise ValueError(
            f"object_store_memory={store} is too small: at least {STORE_BYTES_MIN} bytes (75 MiB) "
            "are needed"
        )
    given = {
        "num-cpus": num_cpus,
        "num-gpus": num_gpus,
        "resources": dict(resources) if resources else None,
        "labels": dict(labels) if labels else None,
        "object-store-memory": store,
        "memory": memory,
        "object-spilling-directory": spilling_directory,
        "isolation": isolated,
    }
    return {key: value for key, value in given.items() if value is not None}


def _start_embedded(
    node: dict[str, Any], dashboard: tuple[str, int | None] | None, system_config: Any
) -> Any:
    """Start the head process of an embedded cluster; returns what its node.json says."""
    global _started
    served = ""
    if dashboard is not None:
        served = f"{dashboard[0]}:{_dashboard_port(*dashboard)}"
    config = {"node": node, "dashboard": served, "system_config": system_config or {}}
    _started = NodeProcess(config)
    # While it starts: what this process needs takes as long to import.
    seam("client.api")
    try:
        _started.wait_ready()
    except BaseException:
        _started = None
        raise
    return _started.answer


_OLDER = {
    "redis_address": "address",
    "node_ip_address": "_node_ip_address",
    "driver_mode": "local_mode or log_to_driver",
}
_OLDER_IGNORED = {
    "object_id_seed",
    "num_workers",
    "num_redis_shards",
    "plasma_directory",
    "huge_pages",
    "redirect_output",
    "_lru_evict",
}
_MODES: dict[Any, dict[str, bool]] = {0: {}, 1: {}, 2: {"local_mode": True}, 3: {"quiet": True}}
"""What ``driver_mode`` meant: script, worker, Python and silent mode."""


def _from_older(
    kwargs: dict[str, Any], address: str | None, log_to_driver: bool | None, local_mode: bool
) -> tuple[str | None, bool | None, bool]:
    """Take the arguments of Ray 0.x out of ``kwargs``; returns what they mean today."""
    for name in sorted(kwargs.keys() & (_OLDER.keys() | _OLDER_IGNORED)):
        value, now = kwargs.pop(name), _OLDER.get(name)
        what = f"use {now}" if now else "it does nothing here"
        warnings.warn(f"init({name}=...) is of Ray 0.x: {what}", DeprecationWarning, stacklevel=4)
        if name == "redis_address":
            address = address or value
        elif name == "node_ip_address":
            kwargs["_node_ip_address"] = value
        elif name == "driver_mode":
            if value not in _MODES:
                raise ValueError(f"driver_mode={value!r} is not one of {sorted(_MODES)}")
            local_mode = local_mode or _MODES[value].get("local_mode", False)
            log_to_driver = False if _MODES[value].get("quiet") else log_to_driver
    return address, log_to_driver, local_mode


def _check(kwargs: dict[str, Any], namespace: Any) -> None:
    unknown = [key for key in kwargs if key not in _PRIVATE]
    if unknown:
        import inspect

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


def _dashboard_port(host: str, wanted: int | None) -> int:
    """The port wanted; by default the usual one if it is free, else 0 for any."""
    if wanted is not None:
        return wanted
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT


def resolve(address: str | None) -> str | None:
    """The scheduler's address to join, or None to start an embedded cluster."""
    if address in (None, "auto"):
        given = setting("ADDRESS")
        if given and given != "auto":
            address = given
        elif address == "auto" or given == "auto":
            newest = next(iter(node_processes.local_nodes()), None)
            if newest is None:
                raise ConnectionError("no running cluster was found on this machine")
            return newest["scheduler_address"]
        else:
            return None
    if address == "local":
        return None
    assert address is not None
    from ract.core.security import full_address

    return full_address(address)


def _join_machine(address: str, token_file: str | None) -> dict[str, Any]:
    """Start a node without resources of its own, so that this driver has one to talk to."""
    global _started
    from ract.core.security import check_peer, load_token

    node = {"num-cpus": 0, "num-gpus": 0, "for-driver": True}
    config: dict[str, Any] = {"scheduler": address, "node": node}
    config["token"] = False
    if not address.startswith("tcp://"):
        config["token"] = load_token(token_file)
    check_peer(address, config["token"] or "", JOIN_TIMEOUT_S)
    try:
        _started = node_processes.start(config)
    except RuntimeError as error:
        raise ConnectionError(f"could not join the cluster at {address}: {error}") from error
    return _started.answer


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


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster; an embedded one ends with everything in it. Idempotent.

    Args:
        wait_for_processes: Accepted for compatibility: an embedded cluster is always waited for.
    """
    global _context
    with _lock:
        runtime = _connected()
        if runtime is not None and not context.process.is_executor:
            runtime.close()
            current.install(None)
            use_system_config({})
            _stop_tracing()
        _context = None
        _stop_started()


def _stop_started() -> None:
    global _started
    started, _started = _started, None
    if started is not None:
        started.stop()


def _connected() -> Runtime | None:
    found: Runtime | None = current.runtime
    return found


def _stop_tracing() -> None:
    if (tracing := sys.modules.get("ract.client.process.tracing")) is not None:
        tracing.stop()


def is_initialized() -> bool:
    """Whether this process is connected to a cluster."""
    runtime = _connected()
    return runtime is not None and not runtime.closed


def _at_exit() -> None:
    if not context.process.is_executor:
        shutdown(_exiting_interpreter=True)


atexit.register(_at_exit)


def _after_fork() -> None:
    """A forked child must not touch its parent's sockets, nor end its parent's cluster."""
    global _started, _context
    _started = _context = None
    current.install(None)


os.register_at_fork(after_in_child=_after_fork)
