"""Actor classes: what ``@ract.remote`` makes of a class."""

from __future__ import annotations

import functools
import inspect
import pickle
import types
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from ract.client.actors.client import ActorClient
from ract.client.actors.handles import ActorHandle
from ract.client.actors.info import HandleInfo
from ract.client.api import auto_init
from ract.client.api.remote_function import check_size
from ract.client.objects.held import contained_of
from ract.client.objects.values import pack
from ract.client.process import sites, tracing
from ract.client.tasks import strategies
from ract.core import ids, serialization, wire
from ract.core.diagnose import explain_unpicklable
from ract.core.errors import ActorClassInheritanceException, BadMethodError
from ract.core.messages import ActorSpec, ActorWanted, Blob
from ract.core.options import ActorOptions, actor_options, method_options
from ract.core.seams import seam
from ract.core.signatures import Signature

if TYPE_CHECKING:
    from ract.client.runtime import Runtime

METHOD_OPTIONS = "__ract_method_options__"


class ActorClass:
    """A class whose instances live in processes of their own: ``C.remote(...)`` makes one."""

    def __init__(self, cls: type, options: ActorOptions) -> None:
        self._class = cls
        self._options = options
        self._name = cls.__name__
        self._signature = None
        if cls.__init__ is not object.__init__:  # type: ignore[misc]
            self._signature = Signature.of(cls.__init__, skip_first=True)  # type: ignore[misc]
        else:
            self._signature = Signature([], 0, 0, False, {}, False)
        self._methods = _methods(cls)
        self.is_async = any(_is_async(member) for _, member in inspect.getmembers(cls))
        self._pickled: tuple[Runtime, bytes, list[Any]] | None = None
        _check_groups(cls, self._methods, options)
        _check_durable(cls, options)
        functools.update_wrapper(self, cls, updated=())

    def __call__(self, /, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{self._name}()', "
            f"use '{self._name}.remote()'."
        )

    def __getattr__(self, name: str) -> Any:
        # Methods name their class to reach its attributes, and find it decorated.
        if name.startswith("__") or "_class" not in self.__dict__:
            raise AttributeError(name)
        value = getattr(self._class, name)
        # A function that can be found by its name would be sent to executors as that name.
        return functools.partial(value) if inspect.isfunction(value) else value

    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceException(
            f"Inheriting from the actor class {self._name!r} is not allowed. Inherit from the "
            "plain class and decorate the subclass with @ract.remote."
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor; returns its handle at once.

        Raises:
            TypeError: the arguments do not fit the constructor, or cannot be pickled.
            ValueError: the name is taken.
        """
        if self._signature is not None:
            self._signature.check(f"{self._name}.__init__", args, kwargs)
        runtime: Any = auto_init.runtime()
        if runtime.is_local:
            return runtime.make_actor(self, args, kwargs)
        spec, refs = self._spec(runtime, args, kwargs)
        client = runtime.actor(spec.actor_id)
        info = self._info(runtime)
        client.hold()
        client.kept = refs
        runtime.release_idle_leases()  # they may stand where the actor is best placed
        if not spec.name:
            handle = client.strong_handle(info)
            runtime.tell(ActorWanted(runtime.process, spec))
            client.watch()
            return handle
        return self._create_named(runtime, client, info, spec)

    def _create_named(
        self, runtime: Runtime, client: ActorClient, info: HandleInfo, spec: ActorSpec
    ) -> ActorHandle:
        options = self._options
        runtime.actors.say_farewells()
        try:
            found = runtime.link.request(
                "create_actor", spec=wire.encode(spec), get_if_exists=bool(options.get_if_exists)
            )
        except BaseException:
            client.forget_holds()
            raise
        if found["created"]:
            client.watch()
            return client.strong_handle(info)
        client.forget_holds()
        # The scheduler has counted a hold for this process.
        return runtime.actor(found["actor_id"]).adopt(1, info_from_lookup(found))

    def _remote(self, args: Any = (), kwargs: Any = None, **options: Any) -> ActorHandle:
        return self.options(**options).remote(*args, **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """A node of a lazy graph that will create an actor: see `ract.dag`."""
        return seam("dag.class_node")(self, args, kwargs)

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options.

        Raises:
            ValueError: an unknown option or a bad value. TypeError: a value of a wrong type.
        """
        other = object.__new__(ActorClass)
        other.__dict__.update(self.__dict__)
        other._options = self._options.merged(**options)
        _check_durable(self._class, other._options)
        return other

    def _info(self, runtime: Runtime) -> HandleInfo:
        options = self._options
        is_ordered = (
            not self.is_async
            and (options.max_concurrency or 1) == 1
            and not options.concurrency_groups
            and not options.allow_out_of_order_execution
        )
        return HandleInfo(
            self._name,
            self._methods,
            options.max_task_retries,
            options.max_pending_calls,
            is_ordered,
            options.name or "",
            options.namespace or runtime.namespace,
            self.is_async,
            (options.on_full or "block") if options.mailbox_size else "",
            options.durable == "call",
        )

    def _spec(
        self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[ActorSpec, list[Any]]:
        options = self._options
        class_head, captured = self._ship(runtime)
        packed = pack((args, kwargs), what=f"constructor arguments of {self._name}")
        refs = [*captured, *packed.refs]
        head = pickle.dumps((class_head, packed.head), 5)
        strategy = strategies.plan(runtime, options, options.placement_demand, self._name)
        info = self._info(runtime)
        detached = (options.lifetime or runtime.default_lifetime) == "detached"
        if detached and not options.namespace and _is_anonymous(runtime.namespace):
            runtime.warn(
                "detached_actor_anonymous_namespace",
                f"The detached actor {self._name} is created in an anonymous namespace. Other jobs "
                f"find it only with namespace={runtime.namespace!r}: give one to ract.init().",
            )
        spec = ActorSpec(
            actor_id=ids.actor_id_bytes(runtime.next_number(), runtime.job_id),
            job_id=runtime.job_id,
            owner=runtime.process,
            class_name=self._name,
            creation=Blob(head, packed.copied_buffers()),
            contains=contained_of(refs),
            placement_demand=dict(options.placement_demand),
            running_demand=dict(options.running_demand),
            name=options.name or "",
            namespace=options.namespace or runtime.namespace,
            detached=detached,
            max_restarts=options.max_restarts,
            max_task_retries=options.max_task_retries,
            max_pending_calls=options.max_pending_calls,
            max_concurrency=options.max_concurrency,
            concurrency_groups=dict(options.concurrency_groups or {}),
            runtime_env=strategies.canonical_env(options.runtime_env) or runtime.runtime_env,
            strategy=strategy,
            label_selector=dict(options.label_selector or {}),
            methods={"info": pickle.dumps(info.to_plain(), 5)},
            enable_task_events=options.enable_task_events,
            interruptible=options.interruptible,
            mailbox_size=options.mailbox_size or 0,
            trace=tracing.submitted(f"{self._name}.__init__") if tracing.tracer else {},
            durable=options.durable or "",
            durable_interval_s=options.durable_interval_s,
            durable_path=options.durable_path or "",
            call_site=sites.of_caller() if sites.of_calls else "",
        )
        return spec, refs

    def _ship(self, runtime: Runtime) -> tuple[bytes, list[Any]]:
        """The class pickled, once per cluster, at its first use.

        No lock is held meanwhile, since pickling runs code of users.
        """
        pickled = self._pickled
        if pickled is None or pickled[0] is not runtime:
            try:
                packed = serialization.pack_by_value(self._class)
            except Exception as error:
                what = f"the actor class {self._name}"
                raise TypeError(explain_unpicklable(self._class, what, error)) from error
            check_size(runtime, self._name, len(packed.head), "actor class")
            pickled = self._pickled = (runtime, packed.head, packed.refs)
        return pickled[1], pickled[2]

    def __repr__(self) -> str:
        return f"ActorClass({self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A class whose methods name it is rebuilt before it has its methods: send what was found.
        return _rebuild, ({**self.__dict__, "_pickled": None},)


def _is_anonymous(namespace: str) -> bool:
    """Whether the job was given the namespace at random, having named none."""
    try:
        uuid.UUID(namespace)
    except ValueError:
        return False
    return True


def _rebuild(state: dict[str, Any]) -> ActorClass:
    made = object.__new__(ActorClass)
    made.__dict__.update(state)
    return made


def info_from_lookup(found: dict[str, Any]) -> HandleInfo:
    """What a handle needs to know, from what the scheduler answers."""
    return HandleInfo.from_plain(pickle.loads(found["methods"]["info"]))


def handle_from_lookup(runtime: Runtime, found: dict[str, Any]) -> ActorHandle:
    """A weak handle from what the scheduler answers to a lookup by name."""
    client: Any = runtime.actor(found["actor_id"])
    if runtime.is_local:
        return client.borrow(client.info)
    if client.info is None:
        client.info = info_from_lookup(found)
    client.watch()
    return ActorHandle(runtime, client)


def _is_async(member: Any) -> bool:
    return inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


def _methods(cls: type) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for name, member in inspect.getmembers(cls, callable):
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            continue
        if not (inspect.isroutine(member) or inspect.isfunction(member)):
            continue
        static = inspect.getattr_static(cls, name)
        bound = isinstance(static, (staticmethod, classmethod))
        signature = Signature.of(member, skip_first=not bound)
        meta: dict[str, Any] = {"signature": signature.to_plain() if signature else None}
        options = getattr(member, METHOD_OPTIONS, None)
        if options:
            meta["options"] = options
        if inspect.isgeneratorfunction(member) or inspect.isasyncgenfunction(member):
            meta["generator"] = True
            meta["options"] = {"num_returns": "streaming", **meta.get("options", {})}
        methods[name] = meta
    return methods


def _check_groups(cls: type, methods: dict[str, Any], options: ActorOptions) -> None:
    groups = options.concurrency_groups or {}
    for name, meta in methods.items():
        group = meta.get("options", {}).get("concurrency_group")
        if group is not None and group not in groups:
            raise ValueError(
                f"{cls.__qualname__}.{name} names concurrency group {group!r}, but the actor has "
                f"{sorted(groups) or 'none'}"
            )


def _check_durable(cls: type, options: ActorOptions) -> None:
    if options.durable is None:
        return
    for name in ("__ract_save__", "__ract_restore__"):
        hook = getattr(cls, name, None)
        if not callable(hook) or _is_async(hook):
            raise TypeError(
                f"{cls.__qualname__} is to be durable: it needs the plain methods "
                "__ract_save__(self), which returns its state, and __ract_restore__(self, state)"
            )


def make_actor_class(cls: type, **options: Any) -> ActorClass:
    """``@ract.remote`` on a class."""
    return ActorClass(cls, actor_options(**options))


def method(*args: Any, **options: Any) -> Any:
    """Set default options for calls of one actor method.

    Bare, ``@ract.method`` only marks a method, as programs do for type checkers.

    Args:
        **options: As `ActorMethod.options` takes: ``num_returns``, ``concurrency_group``,
            ``max_task_retries``, ``retry_exceptions``, ``enable_task_events``.

    Raises:
        BadMethodError: positional arguments, unknown options or bad values.
    """
    if len(args) == 1 and callable(args[0]) and not options:
        return args[0]
    if args or not options:
        raise BadMethodError(
            "@ract.method takes keyword arguments only, e.g. @ract.method(num_returns=2)"
        )
    try:
        method_options(**options)
    except ValueError as error:
        raise BadMethodError(*error.args) from None

    def decorate(function: Any) -> Any:
        setattr(function, METHOD_OPTIONS, dict(options))
        return function

    return decorate
