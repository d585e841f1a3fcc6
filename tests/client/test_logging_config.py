"""How a job logs."""

import json
import logging
import os
import subprocess
import sys

import pytest

import ract
from ract.client.people.driver_output import DriverOutput
from ract.client.people.logging_config import chosen
from ract.client.process import user_code
from ract.compat.ported.job_config import JobConfig
from ract.core.messages import Pushed

PROGRAM = """
import logging, sys
import ract
from ract.compat.ported.job_config import JobConfig
from ract.testing import wait_for_condition

class Seen:
    text = ""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        Seen.text += text
        return self.stream.write(text)

    def flush(self):
        self.stream.flush()

sys.stdout, sys.stderr = Seen(sys.stdout), Seen(sys.stderr)
arguments = eval(sys.argv[1])
ract.init(num_cpus=1, include_dashboard=False, **arguments)
log = logging.getLogger("program")
log.info("in driver %d", 1, extra={"k": object})
log.debug("not shown")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("trouble")

@ract.remote
def task():
    print("printed")
    logging.getLogger("program").warning("in task")

@ract.remote
class Actor:
    def method(self):
        logging.info("in actor")

ract.get(task.options(name="special").remote())
actor = Actor.options(name="keeper").remote()
ract.get(actor.method.remote())
print("ids", ract.get_runtime_context().get_job_id(), actor._actor_id.hex())
for text in ("printed", "in task", *sys.argv[2:]):
    wait_for_condition(lambda: text in Seen.text)
ract.shutdown()
"""


def run(arguments, *awaited, **variables):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, arguments, *awaited],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def records(done):
    """What was logged in JSON, by message."""
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return {line["message"]: line for line in lines}


@pytest.fixture(scope="module")
def as_json():
    return run(
        "dict(logging_config=ract.LoggingConfig('JSON', additional_log_standard_attrs=['name']))",
        "in actor",
    )


def test_records_are_lines_of_json_in_the_driver_and_everywhere(as_json):
    found = records(as_json)
    assert "not shown" not in found
    _, job, actor = next(x for x in as_json.stdout.splitlines() if x.startswith("ids")).split()
    driver = found["in driver 1"]
    assert driver["levelname"] == "INFO"
    assert driver["filename"] == "<string>"
    assert driver["name"] == "program"
    assert driver["k"] == "<class 'object'>"
    assert driver["job_id"] == job
    assert "task_id" not in driver
    assert driver["timestamp_ns"] > 10**18
    assert list(driver)[:5] == ["asctime", "levelname", "message", "filename", "lineno"]
    task = found["in task"]
    assert (task["task_name"], task["task_func_name"]) == ("special", "task")
    assert task["job_id"] == job
    assert task["worker_id"] != driver["worker_id"]
    method = found["in actor"]
    assert (method["actor_id"], method["actor_name"]) == (actor, "keeper")
    assert method["task_func_name"].endswith("method")


def test_a_traceback_is_a_part_of_its_record(as_json):
    assert "ZeroDivisionError: division by zero" in records(as_json)["trouble"]["exc_text"]


def test_what_tasks_print_still_says_who_did(as_json):
    assert any(line.startswith("(special pid=") for line in as_json.stdout.splitlines())


def test_text_says_the_same():
    done = run(
        "dict(job_config=(config := JobConfig(), "
        "config.set_py_logging_config(ract.LoggingConfig(log_level='WARNING')))[0])"
    )
    assert "in driver" not in done.stderr
    [line] = [x for x in done.stderr.splitlines() if "-- in task" in x]
    assert "WARNING <string>:" in line
    assert " task_name=special " in line
    assert line.startswith("(special pid=")
    [line] = [x for x in done.stderr.splitlines() if "-- trouble" in x]
    assert " job_id=" in line
    assert "ZeroDivisionError" in done.stderr


def test_the_encoding_may_come_from_the_environment():
    assert "in task" in records(run("{}", RAY_LOGGING_CONFIG_ENCODING="JSON"))


def test_bad_values_are_refused_at_once(monkeypatch):
    for wrong in (
        {"encoding": "XML"},
        {"encoding": "json"},
        {"log_level": "LOUD"},
        {"additional_log_standard_attrs": ["foo"]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ract.LoggingConfig(**wrong)
    with pytest.raises(TypeError, match="LoggingConfig"):
        chosen({"encoding": "JSON"}, None)
    monkeypatch.setenv("RACT_LOGGING_CONFIG_ENCODING", "YAML")
    with pytest.raises(ValueError, match="YAML"):
        chosen(None, None)


def test_what_is_given_goes_before_the_job_and_the_environment(monkeypatch):
    given, of_job = ract.LoggingConfig(), ract.LoggingConfig(log_level=logging.DEBUG)
    job = JobConfig()
    assert chosen(None, job) is None
    monkeypatch.setenv("RACT_LOGGING_CONFIG_ENCODING", "JSON")
    assert chosen(None, job).encoding == "JSON"
    job.set_py_logging_config(of_job)
    assert chosen(None, job) is of_job
    assert chosen(given, job) is given


def test_it_is_plain_and_comparable():
    config = ract.LoggingConfig("JSON", "DEBUG", ["name"])
    assert ract.LoggingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_records_of_several_workers_are_all_shown_as_they_are(capsys):
    output = DriverOutput(True, has_records=True)
    line = '{"asctime": "2026-01-01 00:00:00,000", "message": "hello"}'
    for pid in range(3):
        output.receive(Pushed(0, "log", {"name": "f", "pid": pid, "lines": [line], "is_err": True}))
    assert user_code.flush()  # they are printed on a thread that may wait
    assert capsys.readouterr().err.splitlines() == [line] * 3


def test_rays_arguments_set_the_logger_of_ract_up(capfd):
    logger = logging.getLogger("ract")
    ract.shutdown()
    try:
        ract.init(num_cpus=1, logging_level=logging.ERROR, logging_format="MINE %(message)s")
        logging.getLogger("ract.client").warning("not said")
        logging.getLogger("ract.client").error("said")
        assert "MINE said" in capfd.readouterr().err
        ract.shutdown()
        ract.init(num_cpus=1, logging_level="warning")
        assert (logger.level, logger.handlers) == (logging.WARNING, [])
        ract.shutdown()
        ract.init(num_cpus=1, configure_logging=False, logging_level="error")
        assert logger.level == logging.WARNING
        ract.shutdown()
        with pytest.raises(ValueError, match="LOUD"):
            ract.init(logging_level="loud")
    finally:
        ract.shutdown()
        logger.setLevel(logging.NOTSET)
