"""``ray.test_utils``, its name in Ray 1.x."""

from ract.compat.ported._private.test_utils import *  # noqa: F403
