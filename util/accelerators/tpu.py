"""The TPU pod that the running code is in. Outside of one, nothing is known."""

from __future__ import annotations

import os

from ract.worker.hardware import tpu


def get_current_pod_name() -> str | None:
    """The name of the TPU pod that this machine is part of; None elsewhere.

    Its machines offer a resource of this name, and the first of them ``TPU-<type>-head``.
    """
    return _pod().name or None


def get_current_pod_worker_count() -> int | None:
    """How many machines the TPU pod has that this one is part of; None where it is not known."""
    return tpu.hosts(_pod(), tpu.chips_here()) or None


def get_num_tpu_chips_on_node() -> int:
    """The TPU chips of this machine; 0 where there are none."""
    return tpu.chips_here()


def _pod() -> tpu.Pod:
    return tpu.pod(os.environ, ask=tpu.chips_here() > 0)
