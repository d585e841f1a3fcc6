"""TPU pods: from variables, else from a metadata server, faked by a server of this test."""

import http.server
import threading

import pytest

from ract.worker.hardware import tpu


@pytest.fixture
def metadata(monkeypatch):
    """Attributes that the server has, by name."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = self.headers["Metadata-Flavor"] == "Google" and name in attributes
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        tpu._attribute.cache_clear()
        yield attributes
        server.shutdown()
        thread.join()
    tpu._attribute.cache_clear()


def test_variables_describe_a_pod():
    environ = {
        "TPU_NAME": "p",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_ID": "1",
        "TPU_TOPOLOGY": "4x4",
        "TPU_WORKER_HOSTNAMES": "a,b",
    }
    assert tpu.pod(environ, ask=False) == tpu.Pod("p", "v5litepod-16", "4x4", "1", 2)


def test_elsewhere_there_is_no_pod():
    assert tpu.pod({}, ask=False) == tpu.Pod()
    assert tpu.pod({"TPU_NAME": "p"}, ask=False) == tpu.Pod()


def test_the_metadata_server_says_what_variables_do_not(metadata):
    metadata.update(
        {
            "accelerator-type": "v4-16",
            "instance-id": "t1v",
            "agent-worker-number": "0",
            "tpu-env": "ZONE: 'us-1a'\nTOPOLOGY: '2x2x2'\n",
        }
    )
    assert tpu.pod({}, ask=True) == tpu.Pod("t1v", "v4-16", "2x2x2", "0")
    assert tpu.pod({}, ask=False) == tpu.Pod()


def test_a_metadata_server_that_knows_nothing_is_no_pod(metadata):
    assert tpu.pod({}, ask=True) == tpu.Pod()


def test_without_a_metadata_server_there_is_no_pod(metadata, monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    assert tpu.pod({}, ask=True) == tpu.Pod()


@pytest.mark.parametrize(
    ("kind", "accelerator_type", "chips"),
    [
        ("v2-8", "TPU-V2", 4),
        ("v4-16", "TPU-V4", 8),
        ("v5p-8", "TPU-V5P", 4),
        ("v5litepod-16", "TPU-V5LITEPOD", 16),
        ("v6e-8", "TPU-V6E", 8),
        ("v7x-16", "TPU-V7X", 8),
        ("tpu7x-16", "TPU-V7X", 8),
        ("v4", "TPU-V4", 0),
    ],
)
def test_a_pods_type_says_how_many_chips_it_has(kind, accelerator_type, chips):
    pod = tpu.Pod(kind=kind)
    assert (pod.accelerator_type, pod.chips) == (accelerator_type, chips)


def test_a_pod_has_as_many_machines_as_its_chips_need():
    assert tpu.hosts(tpu.Pod(kind="v4-16"), chips=4) == 2
    assert tpu.hosts(tpu.Pod(kind="v5litepod-8"), chips=8) == 1
    assert tpu.hosts(tpu.Pod(kind="v4-16", hosts=3), chips=4) == 3
    assert tpu.hosts(tpu.Pod(kind="v4-16"), chips=0) == 0
    assert tpu.hosts(tpu.Pod(), chips=4) == 0


def test_chips_are_device_files(tmp_path):
    assert tpu.chips_here(tmp_path) == 0
    (tmp_path / "dev").mkdir()
    for number in range(4):
        (tmp_path / f"dev/accel{number}").touch()
    assert tpu.chips_here(tmp_path) == 4
