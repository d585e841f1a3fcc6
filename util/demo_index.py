"""An inverted index and word statistics over source files: the plain functions of the demo.

Nothing here knows of tasks or actors, so that the same functions make the distributed index and
the single-process one that it is checked against.

An *index* maps a word to its postings, ``{file number: occurrences}``. It is cut into *shards* by
a hash of the word that is the same in every process (unlike `hash`).
"""

import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Postings = dict[int, int]
Index = dict[str, Postings]

_WORD = re.compile(r"[^\W\d_]{2,}")
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass
class Statistics:
    """What is counted beside the index; statistics of disjoint files add up."""

    files: int = 0
    lines: int = 0
    words: int = 0
    size_bytes: int = 0
    lengths: Counter[int] = field(default_factory=Counter)  #: occurrences by length of the word

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(
            self.files + other.files,
            self.lines + other.lines,
            self.words + other.words,
            self.size_bytes + other.size_bytes,
            self.lengths + other.lengths,
        )


def source_files(root: Path | None = None) -> list[Path]:
    """The Python sources below ``root`` (the standard library's folder), sorted, without tests."""
    root = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    return sorted(
        path
        for path in root.rglob("*.py")
        if not _SKIPPED.intersection(path.relative_to(root).parts) and path.is_file()
    )


def chunks(files: Sequence[Path], count: int) -> list[list[tuple[int, Path]]]:
    """Deal the numbered files out to at most ``count`` chunks.

    Neighbours in the list are often alike (one package, large generated tables), so dealing gives
    chunks of more equal work than cutting does.
    """
    numbered = list(enumerate(files))
    return [numbered[i::count] for i in range(min(count, len(numbered)))]


def index_files(numbered: Iterable[tuple[int, Path]]) -> tuple[Index, Statistics]:
    """Index the files (the map side)."""
    index: Index = {}
    statistics = Statistics()
    for number, path in numbered:
        data = path.read_bytes()
        text = data.decode("utf-8", errors="replace")
        counts = Counter(word.lower() for word in _WORD.findall(text))
        for word, count in counts.items():
            index.setdefault(word, {})[number] = count
            statistics.lengths[len(word)] += count
        statistics.files += 1
        statistics.lines += text.count("\n")
        statistics.words += counts.total()
        statistics.size_bytes += len(data)
    return index, statistics


def shard_of(word: str, shards: int) -> int:
    """The number of the shard that holds a word."""
    return zlib.crc32(word.encode()) % shards


def cut(index: Index, shards: int) -> list[Index]:
    """Cut an index into shards."""
    parts: list[Index] = [{} for _ in range(shards)]
    for word, postings in index.items():
        parts[shard_of(word, shards)][word] = postings
    return parts


def merge(into: Index, other: Index) -> None:
    """Add the postings of ``other``, an index of other files or of other words."""
    for word, postings in other.items():
        into.setdefault(word, {}).update(postings)


def top_words(index: Index, count: int, longer_than: int = 0) -> list[tuple[str, int, int]]:
    """The most frequent words as (word, occurrences, files), ties in alphabetical order."""
    ranked = (
        (word, sum(postings.values()), len(postings))
        for word, postings in index.items()
        if len(word) > longer_than
    )
    return sorted(ranked, key=lambda entry: (-entry[1], entry[0]))[:count]


def differences(found: Index, expected: Index, count_max: int = 10) -> list[str]:
    """What distinguishes two indexes, one line per word, at most ``count_max`` lines."""
    lines = []
    for word in sorted(found.keys() | expected.keys()):
        if found.get(word) != expected.get(word):
            lines.append(
                f"{word!r}: {_describe(found.get(word))}, expected {_describe(expected.get(word))}"
            )
            if len(lines) == count_max:
                break
    return lines


def _describe(postings: Postings | None) -> str:
    if postings is None:
        return "missing"
    return f"{sum(postings.values())} times in {len(postings)} files"
