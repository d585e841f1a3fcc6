"""Actor classes and handles, and leaving an actor from inside."""

from ract.client.actor_class import ActorClass
from ract.client.handles import ActorHandle, ActorMethod
from ract.client.runtime_context import exit_actor
from ract.core.errors import ActorClassInheritanceException

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
]
