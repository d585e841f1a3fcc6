"""Actor classes and handles, and leaving an actor from inside."""

from ract.client.actors.handles import ActorHandle, ActorMethod
from ract.client.api.actor_class import ActorClass, method
from ract.client.api.runtime_context import exit_actor
from ract.core.errors import ActorClassInheritanceException

ActorProxy = ActorHandle
"""What Ray's users name the type of a handle whose methods type checkers know."""

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
    "method",
]
