"""Following and turning over the files that executors write."""

import os

import pytest

from ract.core import logs
from ract.worker.files.logs import READ_BYTES_MAX, LogTail, Rotation

MARK = logs.MARK.decode() + "f" + logs.NUMBER.decode() + "1\n"


class Writer:
    """An executor's log: appends, and opens its file anew when it is told."""

    def __init__(self, folder, process=3, pid=77):
        self.path = folder / f"worker-{process}-{pid}.out"
        self.file = self.path.open("ab", buffering=0)

    def write(self, text):
        self.file.write(text.encode())

    def reopen(self):
        self.file.close()
        self.file = self.path.open("ab", buffering=0)


@pytest.fixture
def seen():
    return []


def follow(folder, seen, renamed=None, **rotation):
    def on_lines(process, pid, name, is_err, lines):
        seen.extend((name, line) for line in lines)

    told = (lambda process: None) if renamed is None else renamed.append
    tail = LogTail(str(folder), on_lines, Rotation(**rotation), told)
    tail.begin(3, 77)
    return tail


def test_lines_come_with_the_name_of_who_wrote_them(tmp_path, seen):
    tail, writer = follow(tmp_path, seen), Writer(tmp_path)
    writer.write(MARK + "one\ntw")
    tail.poll()
    assert seen == [("f", "one")]
    writer.write("o\nthr")
    tail.finish(3)
    assert seen == [("f", "one"), ("f", "two"), ("f", "thr")]


def test_a_large_file_is_turned_over_and_no_line_is_lost(tmp_path, seen):
    renamed = []
    tail = follow(tmp_path, seen, renamed, bytes_max=100, backups=2)
    writer = Writer(tmp_path)
    wanted = []
    for n in range(200):
        writer.write(f"line {n}\n")
        wanted.append(("", f"line {n}"))
        if n % 7 == 0:
            tail.poll()
        if renamed and n % 3 == 0:
            assert set(renamed) == {3}
            renamed.clear()
            writer.reopen()
    writer.reopen()
    tail.finish(3)
    assert seen == wanted
    names = sorted(os.listdir(tmp_path))
    assert names == ["worker-3-77.out", "worker-3-77.out.1", "worker-3-77.out.2"]


def test_without_backups_only_the_newest_file_stays(tmp_path, seen):
    renamed = []
    tail = follow(tmp_path, seen, renamed, bytes_max=10, backups=0)
    writer = Writer(tmp_path)
    writer.write("a line that is long\n")
    tail.poll()
    assert renamed == [3]
    writer.write("late\n")
    writer.reopen()
    writer.write("new\n")
    for _ in range(3):
        tail.poll()
    assert [line for _, line in seen] == ["a line that is long", "late", "new"]
    assert os.listdir(tmp_path) == ["worker-3-77.out"]


def test_a_process_that_does_not_open_a_new_file_is_asked_once(tmp_path, seen):
    renamed = []
    tail = follow(tmp_path, seen, renamed, bytes_max=10, backups=1)
    writer = Writer(tmp_path)
    for n in range(20):
        writer.write(f"line {n:010}\n")
        tail.poll()
    assert renamed == [3]
    assert len(seen) == 20


def test_a_file_that_the_quota_took_does_no_harm(tmp_path, seen):
    tail, writer = follow(tmp_path, seen), Writer(tmp_path)
    writer.write("one\n")
    tail.poll()
    writer.path.unlink()
    tail.poll()
    tail.finish(3)
    assert seen == [("", "one")]


def test_rotation_is_as_the_environment_says(monkeypatch):
    assert Rotation.from_environment() == Rotation(512 * 2**20, 5)
    monkeypatch.setenv("RAY_ROTATION_MAX_BYTES", "1000")
    monkeypatch.setenv("RACT_ROTATION_BACKUP_COUNT", "2")
    assert Rotation.from_environment() == Rotation(1000, 2)


def test_a_crash_report_tells_of_the_thread_that_crashed(tmp_path, seen):
    other = "".join(f'  File "lib.py", line {n} in f\n' for n in range(100))
    report = (
        "before\nFatal Python error: Segmentation fault\n\n"
        f"Thread 0x01 (most recent call first):\n{other}\n"
        'Current thread 0x02 (most recent call first):\n  File "mine.py", line 7 in die\n\n'
        "Extension modules: numpy\n"
    )
    (tmp_path / "worker-3-77.err").write_text("noise\n" * 1000 + report)
    text = follow(tmp_path, seen).tail(3, 77)
    assert text.splitlines()[-4:] == [
        "before",
        "Fatal Python error: Segmentation fault",
        "Current thread 0x02 (most recent call first):",
        '  File "mine.py", line 7 in die',
    ]
    (tmp_path / "worker-3-77.err").write_text("noise\n" * 1000 + "last\n")
    assert follow(tmp_path, seen).tail(3, 77, lines=2) == "noise\nlast\n"
    assert follow(tmp_path, seen).tail(4, 77) == ""


def test_only_the_files_of_living_processes_are_looked_at(tmp_path, seen, monkeypatch):
    tail = follow(tmp_path, seen)
    for process in range(100, 1100):
        Writer(tmp_path, process).file.close()
        tail.begin(process, 77)
        tail.finish(process)
    looked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **more: (looked.append(path), stat(path))[1])
    monkeypatch.setattr(os, "listdir", None)
    tail.poll()
    assert len(looked) == 2


def test_all_that_was_written_is_read_at_once(tmp_path, seen):
    tail, writer = follow(tmp_path, seen), Writer(tmp_path)
    text = "x" * 999
    for _ in range(2 * READ_BYTES_MAX // 1000):
        writer.write(text + "\n")
    tail.catch_up()
    assert len(seen) == 2 * READ_BYTES_MAX // 1000
