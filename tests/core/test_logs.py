"""Pieces of log files."""

import os
import random

import pytest

from ract.core import logs
from ract.worker.executor.streams import NamedStream


def mark(name, number):
    return logs.MARK + name.encode() + logs.NUMBER + f"{number:x}".encode() + b"\n"


class Folder:
    def __init__(self, path):
        self.path = path

    def write(self, data, name="worker-3-77.out"):
        (self.path / name).write_bytes(data)

    def read(self, **args):
        return logs.read(str(self.path), {"pid": 77, **args})

    def whole(self, **args):
        """All of it, piece by piece."""
        found = self.read(**args)
        data = found["data"]
        while found["offset"] < found["size"]:
            before = found["offset"]
            found = self.read(**{**args, "offset": before})
            data += found["data"]
            if found["offset"] == before:
                break
        return data


@pytest.fixture
def files(tmp_path):
    return Folder(tmp_path)


def test_a_name_of_several_lines_stands_in_one_mark(files):
    fd = os.open(files.path / "worker-3-77.out", os.O_CREAT | os.O_WRONLY)
    with NamedStream(fd, lambda: ("Matrix(1 0\n       0 1)", 31)) as stream:
        print("hello", file=stream)
    os.close(fd)
    assert files.whole() == files.whole(task=31) == b"hello\n"
    name = (files.path / "worker-3-77.out").read_bytes().splitlines()[0]
    assert logs.name_of(name) == "Matrix(1 0        0 1)"


def test_files_are_listed_with_who_writes_them(files):
    files.write(b"1234")
    files.write(b"", "worker-3-77.err")
    files.write(b"x", "node.log")
    found = logs.list_files(str(files.path), {})
    assert [file["name"] for file in found] == ["node.log", "worker-3-77.err", "worker-3-77.out"]
    assert [file.get("is_err") for file in found] == [None, True, False]
    assert (found[2]["size"], found[2]["process"], found[2]["pid"]) == (4, 3, 77)
    found = logs.list_files(str(files.path), {"glob": "*.err"})
    assert [file["name"] for file in found] == ["worker-3-77.err"]


def test_marks_are_not_shown_and_an_unfinished_line_waits(files):
    files.write(mark("f", 1) + b"one\ntwo\n" + mark("g", 2) + b"three\nunfin")
    assert files.whole() == b"one\ntwo\nthree\n"
    assert files.whole(rest=True) == b"one\ntwo\nthree\nunfin"


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_task_gets_its_own_lines_whatever_the_pieces(files, size):
    files.write(
        b"".join(mark("f", n % 3) + f"line {n}\nmore {n}\n".encode() for n in range(50))
        + mark("f", 9)
    )
    most = max(size, 40)  # a piece holds a line at least
    wanted = b"".join(f"line {n}\nmore {n}\n".encode() for n in range(50) if n % 3 == 1)
    assert files.whole(task=1, bytes=most) == wanted
    assert files.whole(task=9, bytes=most) == b""


@pytest.mark.parametrize("tail", [0, 1, 3, 1000, 5000, 100_000, -1])
def test_tails_count_the_lines_that_are_shown(files, tail):
    rng = random.Random(3)
    lines = [b"x" * rng.choice([0, 1, 30, 5000]) + b"\n" for _ in range(2000)]
    data = b"".join(
        (mark("f", n) if rng.random() < 0.3 else b"") + line for n, line in enumerate(lines)
    )
    files.write(data)
    wanted = lines if tail < 0 else lines[len(lines) - min(tail, len(lines)) :]
    assert files.whole(tail=tail) == b"".join(wanted)


def test_a_line_without_end_can_be_read(files):
    files.write(b"x" * (3 * logs.LINE_BYTES_MAX))
    assert len(files.whole(rest=True)) == 3 * logs.LINE_BYTES_MAX


def test_a_file_that_was_turned_over_is_read_from_its_start(files):
    files.write(b"old\n" * 10)
    end = files.read()["offset"]
    files.write(b"new\n")
    assert files.read(offset=end)["data"] == b"new\n"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", ".", "..", "sub/file"])
def test_names_that_lead_elsewhere_are_refused(files, name):
    files.write(b"1\n")
    with pytest.raises(ValueError, match="not the name of a file"):
        files.read(filename=name)


def test_what_is_not_there_is_said(files):
    with pytest.raises(FileNotFoundError, match="process 77 has no log"):
        files.read()
    with pytest.raises(FileNotFoundError, match=r"no log file node\.log"):
        files.read(filename="node.log")
    files.write(b"")
    with pytest.raises(ValueError, match="'out' or 'err'"):
        files.read(suffix="log")
    (files.path / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        files.read(filename="folder")
