"""``ray._private.accelerators``: a manager of each vendor's devices."""

from __future__ import annotations

import os

from ract.core.accelerators import (
    ACCELERATORS,
    VENDORS,
    Vendor,
    check_quantity,
    is_left_alone,
    variables,
    visible,
)
from ract.worker.hardware import devices


class AcceleratorManager:
    """What is known of one vendor's devices on this machine."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor

    def get_resource_name(self) -> str:
        """What a task asks for."""
        return self._vendor.resource

    def get_visible_accelerator_ids_env_var(self) -> str:
        """The variable that restricts a process to some devices."""
        return self._vendor.variable

    def get_current_node_num_accelerators(self) -> int:
        """How many devices there are."""
        return devices.number_of(self._vendor.name)

    def get_current_node_accelerator_type(self) -> str | None:
        """Their type."""
        for found in devices.find():
            if found.vendor is self._vendor and found.types:
                return found.types[0]
        return None

    def get_current_process_visible_accelerator_ids(self) -> list[str] | None:
        """The ids to which this process is restricted; None: it is not."""
        return visible(self._vendor, os.environ)

    def set_current_process_visible_accelerator_ids(self, ids: list[str]) -> None:
        """Restrict this process to devices."""
        if is_left_alone(self._vendor, os.environ):
            return
        for name, value in variables(self._vendor, [str(each) for each in ids]).items():
            if value is not None:
                os.environ[name] = value

    def validate_resource_request_quantity(self, quantity: float) -> tuple[bool, str | None]:
        """Whether so much may be asked for, and why not."""
        try:
            check_quantity(self._vendor.resource, quantity)
        except ValueError as error:
            return False, str(error)
        return True, None

    def __repr__(self) -> str:
        return f"AcceleratorManager({self._vendor.name})"


_MANAGERS = {name: AcceleratorManager(vendor) for name, vendor in VENDORS.items()}

NvidiaGPUAcceleratorManager = _MANAGERS["nvidia"]
AMDGPUAcceleratorManager = _MANAGERS["amd"]
IntelGPUAcceleratorManager = _MANAGERS["intel"]
MetaxGPUAcceleratorManager = _MANAGERS["metax"]
NeuronAcceleratorManager = _MANAGERS["neuron"]
TPUAcceleratorManager = _MANAGERS["google"]
HPUAcceleratorManager = _MANAGERS["habana"]
NPUAcceleratorManager = _MANAGERS["ascend"]
RBLNAcceleratorManager = _MANAGERS["rebellions"]
MBLTAcceleratorManager = _MANAGERS["mobilint"]
FuriosaAcceleratorManager = _MANAGERS["furiosa"]
TTNPUAcceleratorManager = _MANAGERS["tenstorrent"]


def get_all_accelerator_managers() -> set[AcceleratorManager]:
    """All of them."""
    return set(_MANAGERS.values())


def get_all_accelerator_resource_names() -> set[str]:
    """Resources that are numbered devices."""
    return set(ACCELERATORS)


def get_accelerator_manager_for_resource(resource_name: str) -> AcceleratorManager | None:
    """The manager of a resource's devices; of GPUs, of those that are here."""
    if resource_name == "GPU":
        return _MANAGERS[devices.gpu_vendor().name]
    found = (each for each in _MANAGERS.values() if each.get_resource_name() == resource_name)
    return next(found, None)
