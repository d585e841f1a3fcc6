"""``ray.accelerators``, its name in Ray 1.x."""

from ract.util.accelerators import *  # noqa: F403
