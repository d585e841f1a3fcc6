"""Counting accelerators, with what vendors install faked: files, tools on PATH, a library."""

import sys

import pytest

from ract.core.accelerators import VENDORS
from ract.worker.hardware import devices


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A root folder with an empty /dev, and a folder of its own on PATH and on sys.path."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    for name in ("bin", "lib", "root/dev"):
        (tmp_path / name).mkdir(parents=True)
    yield Machine(tmp_path)
    sys.modules.pop("pynvml", None)


class Machine:
    def __init__(self, folder):
        self.folder = folder
        self.root = folder / "root"

    def file(self, path, text=""):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def devices(self, *names):
        for name in names:
            self.file(f"dev/{name}")

    def tool(self, name, prints, code=0):
        """A program that checks its arguments, if any are in its name."""
        program, *arguments = name.split()
        path = self.folder / "bin" / program
        check = f'[ "$*" = "{" ".join(arguments)}" ] || exit 9\n' if arguments else ""
        path.write_text(f"#!/bin/sh\n{check}/bin/cat <<'END'\n{prints}\nEND\nexit {code}\n")
        path.chmod(0o755)

    def nvml(self, names, fails=""):
        (self.folder / "lib/pynvml.py").write_text(
            f"names, fails = {names!r}, {fails!r}\n"
            "def nvmlInit():\n"
            "    if fails == 'init': raise RuntimeError('driver not loaded')\n"
            "def nvmlShutdown(): pass\n"
            "def nvmlDeviceGetCount(): return len(names)\n"
            "def nvmlDeviceGetHandleByIndex(i): return i\n"
            "def nvmlDeviceGetName(i):\n"
            "    if fails == 'name': raise RuntimeError('GPU is lost')\n"
            "    return names[i]\n"
        )

    def find(self):
        return [(f.vendor.name, f.count, f.types) for f in devices.find(self.root)]


def test_a_machine_without_devices_costs_one_listing(machine):
    machine.nvml(["NVIDIA H100 80GB HBM3"])  # installed as a dependency, with nothing behind it
    machine.tool("neuron-ls", '[{"nc_count": 2}]')
    assert machine.find() == []
    assert "pynvml" not in sys.modules
    assert devices.find(machine.folder / "nowhere") == []


def test_nvidia_gpus_are_counted_by_nvml(machine):
    machine.devices("nvidiactl", "nvidia0", "nvidia1")
    machine.nvml(["NVIDIA A100-SXM4-40GB"] * 2)
    assert machine.find() == [("nvidia", 2, ("A100", "A100-40G"))]


@pytest.mark.parametrize("fails", ["init", "name"])
def test_a_broken_driver_is_no_gpu(machine, fails):
    machine.devices("nvidiactl")
    machine.nvml(["Tesla T4"], fails)
    assert machine.find() == []


@pytest.mark.parametrize(
    ("product", "types"),
    [
        ("Tesla V100-SXM2-16GB", ("V100",)),
        ("Tesla T4", ("T4",)),
        (b"Tesla P100-PCIE-16GB", ("P100",)),
        ("Tesla K80", ("K80",)),
        ("NVIDIA A10G", ("A10G",)),
        ("NVIDIA L4", ("L4",)),
        ("NVIDIA L40S", ("L40S",)),
        ("NVIDIA A100 80GB PCIe", ("A100", "A100-80G")),
        ("NVIDIA H100 80GB HBM3", ("H100",)),
        ("NVIDIA H200", ("H200",)),
        ("NVIDIA GB200", ("GB200",)),
        ("NVIDIA GeForce RTX 4090", ("GeForce-RTX-4090",)),
        ("", ()),
    ],
    ids=str,
)
def test_types_are_what_programs_ask_for(machine, product, types):
    machine.devices("nvidiactl")
    machine.nvml([product])
    assert machine.find() == [("nvidia", 1, types)]


def test_amd_gpus_are_nodes_of_the_kernels_topology_with_simd_units(machine):
    machine.devices("kfd")
    nodes = "sys/class/kfd/kfd/topology/nodes"
    machine.file(f"{nodes}/0/properties", "cpu_cores_count 64\nsimd_count 0\ndevice_id 0\n")
    for node in (1, 2, 10):
        machine.file(f"{nodes}/{node}/properties", f"simd_count 304\ndevice_id {0x74A1}\n")
    assert machine.find() == [("amd", 3, ("AMD-Instinct-MI300X-OAM",))]
    assert devices.gpu_vendor(machine.root) is VENDORS["amd"]


def test_intel_data_center_gpus_count_and_graphics_of_cpus_do_not(machine):
    machine.file("dev/dri/card0")
    for number, kind in enumerate(["0x3e92", "0x0bd5", "0x0bd6"], 128):
        folder = f"sys/class/drm/renderD{number}/device"
        machine.file(f"{folder}/vendor", "0x8086\n")
        machine.file(f"{folder}/device", f"{kind}\n")
    assert machine.find() == [("intel", 2, ("Intel-GPU-Max-1550",))]
    assert devices.gpu_vendor(machine.root) is VENDORS["intel"]


def test_of_gpus_those_of_one_vendor_are_offered(machine):
    test_intel_data_center_gpus_count_and_graphics_of_cpus_do_not(machine)
    machine.devices("nvidiactl")
    machine.nvml(["Tesla T4"])
    assert machine.find() == [("nvidia", 1, ("T4",))]
    assert devices.gpu_vendor(machine.root) is VENDORS["nvidia"]


def test_without_gpus_they_are_thought_to_be_nvidias(machine):
    assert devices.gpu_vendor(machine.root) is VENDORS["nvidia"]


def test_metax_gpus_are_listed_by_their_tool(machine):
    machine.devices("mxcd")
    assert machine.find() == []
    machine.tool("mx-smi -L", "GPU#0  MXC500  0000:0e:00.0\nGPU#1  MXC500  0000:0f:00.0")
    assert machine.find() == [("metax", 2, ("MXC500",))]


def test_neuron_cores_are_those_of_all_chips(machine):
    machine.devices("neuron0", "neuron1")
    machine.tool("neuron-ls --json-output", '[{"nc_count": 8}, {"nc_count": 8}]')
    assert machine.find() == [("neuron", 16, ("aws-neuron-core",))]


@pytest.mark.parametrize("prints", ["not JSON", "[1]", '{"a": 1}', None])
def test_where_the_tool_does_not_say_each_neuron_chip_has_two_cores(machine, prints):
    machine.devices("neuron0", "neuron1")
    if prints is not None:
        machine.tool("neuron-ls", prints)
    assert machine.find() == [("neuron", 4, ("aws-neuron-core",))]


def test_a_tool_that_fails_says_nothing(machine):
    machine.devices("davinci0")
    machine.tool("npu-smi", "| 0     910B3     | OK |", code=1)
    assert machine.find() == [("ascend", 1, ())]


def test_a_tool_that_hangs_is_not_waited_for(machine, monkeypatch):
    machine.devices("davinci0")
    machine.tool("npu-smi", "| 0     910B3     | OK |")
    path = machine.folder / "bin/npu-smi"
    path.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setattr(devices, "TOOL_TIMEOUT_S", 0.2)
    assert machine.find() == [("ascend", 1, ())]


def test_tpu_chips_are_device_files(machine):
    machine.devices("accel0", "accel1", "accel2", "accel3")
    assert machine.find() == [("google", 4, ())]


def test_devices_passed_through_are_tpus_if_google_made_them(machine):
    machine.devices("vfio/0", "vfio/1", "vfio/vfio")
    machine.file("sys/bus/pci/devices/0000:00:04.0/vendor", "0x10de\n")
    assert machine.find() == []
    machine.file("sys/bus/pci/devices/0000:00:05.0/vendor", "0x1ae0\n")
    assert machine.find() == [("google", 2, ())]


def test_gaudis_are_device_files_of_habana(machine):
    machine.devices("accel/accel0", "accel/accel_controlD0", "accel/accel1")
    machine.file("sys/class/accel/accel0/device/vendor", "0x1da3\n")
    machine.file("sys/class/accel/accel1/device/vendor", "0x8086\n")
    assert machine.find() == [("habana", 1, ("Intel-GAUDI",))]


def test_older_gaudis_have_files_of_their_own(machine):
    machine.devices("hl0", "hl1", "hl_controlD0")
    assert machine.find() == [("habana", 2, ("Intel-GAUDI",))]


def test_ascend_npus_are_device_files_and_their_type_is_the_tools(machine):
    machine.devices("davinci0", "davinci1", "davinci_manager")
    machine.tool("npu-smi info", "| 0     910B3               | OK            | 93.6 |")
    assert machine.find() == [("ascend", 2, ("Ascend910B",))]


@pytest.mark.parametrize(
    ("files", "vendor", "count", "types"),
    [
        (["rbln0", "rbln1"], "rebellions", 2, ()),
        (["aries0"], "mobilint", 1, ("MOBILINT_ARIES",)),
        (["regulus0", "regulus1"], "mobilint", 2, ("MOBILINT_REGULUS",)),
        (["rngd/npu0mgmt", "rngd/npu0pe0", "rngd/npu1mgmt"], "furiosa", 2, ()),
        (["tenstorrent/0", "tenstorrent/by-id"], "tenstorrent", 1, ()),
    ],
    ids=str,
)
def test_others_are_device_files(machine, files, vendor, count, types):
    machine.devices(*files)
    assert machine.find() == [(vendor, count, types)]


def test_every_vendor_is_looked_for(machine):
    assert set(devices._LOOKS) == set(VENDORS)
