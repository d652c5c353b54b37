"""Files of questions and documents, in the layouts they are published in. Errors name file and line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import lzma
import mmap
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmt_memory.errors import InvalidInputError

_PIECE = 1 << 20
Question = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True, slots=True)
class Group:
    """Documents and what is asked about them: every question needs all of the documents.

    Attributes:
        documents: their texts.
        questions: each with the first of its answers, which is the one to learn.
        answers: for each question all that count as right.
    """

    documents: tuple[str, ...]
    questions: tuple[Question, ...]
    answers: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, documents: Sequence[str], asked: Sequence[tuple[str, Sequence[str]]]) -> Group:
        """Documents, and each question with all of its answers."""
        return cls(
            tuple(documents),
            tuple((question, answers[0]) for question, answers in asked),
            tuple(tuple(dict.fromkeys(answers)) for _, answers in asked),
        )


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a file, each read when it is asked for, and the documents that wrong ones are taken from."""

    count: int
    read: Callable[[int], Group]
    corpus: Callable[[], Sequence[str]]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Group:
        return self.read(index)


class Lines:
    """The lines of a file by number. A plain file stays on disk; of a compressed one the content is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.BufferedIOBase | None = None
        self._starts = array("q", [0])
        opened = io.BytesIO(read_bytes(path)) if is_compressed(path) else _open(path)
        for line in opened:
            self._starts.append(self._starts[-1] + len(line))
        if isinstance(opened, io.BytesIO):
            self._file = opened
        else:
            opened.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        if self._file is None:
            self._file = _open(self.path)
        self._file.seek(self._starts[number])
        raw = self._file.read(self._starts[number + 1] - self._starts[number])
        try:
            return raw.decode("utf-8" if number else "utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidInputError(f"{self.path}, line {number + 1}: not UTF-8.") from None

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and object of each line that is not empty."""
        for number in range(len(self)):
            if self[number].strip():
                yield number, self.object(number)

    def object(self, number: int) -> dict[str, Any]:
        """The JSON object on a line."""
        where = f"{self.path}, line {number + 1}"
        try:
            value = json.loads(self[number])
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{where}: not valid JSON ({error.msg} at character {error.colno}).") from None
        if not isinstance(value, dict):
            raise InvalidInputError(f"{where}: expected an object, not {type(value).__name__}.")
        return value


def _mapped(path: Path) -> mmap.mmap | bytes:
    """A file's content, read from the disk when it is looked at."""
    with _open(path) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed in a way known here."""
    return path.suffix in (".gz", ".xz")


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from error


def read_bytes(path: Path) -> bytes:
    """A file's content, decompressed by its suffix (`.gz`, `.xz`)."""
    raw = _open(path)
    with raw:
        try:
            if path.suffix == ".gz":
                return gzip.decompress(raw.read())
            return lzma.decompress(raw.read()) if path.suffix == ".xz" else raw.read()
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise InvalidInputError(f"{path} cannot be decompressed: {error}.") from error


def part_of(items: Sequence[Any], part: tuple[float, float]) -> Sequence[Any]:
    """The items between two shares of their number; neighbouring parts share none and miss none."""
    return items[round(part[0] * len(items)) : round(part[1] * len(items))]


def squad(path: Path, part: tuple[float, float] = (0.0, 1.0)) -> Groups:
    """SQuAD v1.1 or v2.0 JSON, without unanswerable questions; a part is one of its articles, which share no text."""
    try:
        content = json.loads(read_bytes(path))
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 at byte {error.start}.") from None
    groups, at = [], ""
    try:
        articles = content["data"]
        for number, article in enumerate(part_of(articles, part)):
            for place, paragraph in enumerate(article["paragraphs"]):
                at = f", article {number + 1} ({article.get('title', 'no title')}), paragraph {place + 1}"
                asked = [
                    (q["question"].strip(), [answer["text"] for answer in q["answers"]])
                    for q in paragraph["qas"]
                    if q["answers"]
                ]
                if asked:
                    for question, answers in asked:
                        _check_texts(f"{path}{at}", context=paragraph["context"], question=question, answers=answers)
                    groups.append(Group.of([paragraph["context"]], asked))
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"{path}{at}: not SQuAD's format, which is data → paragraphs → context and qas → question and answers "
            f"({type(error).__name__}: {error})."
        ) from None
    if not groups and articles and part != (0.0, 1.0):
        raise InvalidInputError(
            f"{path}: no question in part {list(part)} of its articles, of which there are {len(articles)}. Articles "
            "stay whole, so that no text is in two parts; use files of their own for training and for held_out."
        )
    return _held(path, groups)


def jsonl(path: Path, part: tuple[float, float] = (0.0, 1.0)) -> Groups:
    """A line a question: `{"documents": […], "question": "…", "answers": […]}`, read again when it is asked for."""
    lines = Lines(path)
    numbers = array("q", (number for number, value in lines.objects() if _check_question(lines, number, value)))
    chosen = part_of(numbers, part)

    def read(index: int) -> Group:
        value = lines.object(chosen[index])
        return Group.of(value["documents"], [(value["question"].strip(), value["answers"])])

    def corpus() -> Sequence[str]:
        return list(dict.fromkeys(text for number in chosen for text in lines.object(number)["documents"]))

    return Groups(_some(path, len(chosen)), read, corpus)


def _check_question(lines: Lines, number: int, value: dict[str, Any]) -> bool:
    found = {key: value.get(key) for key in ("documents", "question", "answers")}
    _check_texts(f"{lines.path}, line {number + 1}", **found)
    return True


def _check_texts(where: str, **found: Any) -> None:
    """Refuse what is no text, or nothing but space; `documents` and `answers` are lists of texts."""
    for key, value in found.items():
        several = key in ("documents", "answers")
        texts = (value if isinstance(value, list) and value else [None]) if several else [value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            expected = "a list of non-empty texts" if several else "non-empty text"
            raise InvalidInputError(f"{where}: {key!r} must be {expected}, not {value!r:.60}.")


def streamingqa(path: Path, documents: Path, part: tuple[float, float] = (0.0, 1.0)) -> Groups:
    """StreamingQA: JSONL of `qa_id, question, answers, answers_additional, question_ts, evidence_ts, evidence_id`."""
    lines = Lines(path)
    asked: dict[str, list[tuple[str, list[str]]]] = {}
    where: dict[str, int] = {}
    for number, value in lines.objects():
        at = f"{path}, line {number + 1}"
        missing = [key for key in ("question", "answers", "evidence_id") if not value.get(key)]
        if missing:
            raise InvalidInputError(f"{at}: {', '.join(missing)} missing; expected StreamingQA's keys.")
        answers = value["answers"]
        _check_texts(at, question=value["question"], answers=answers)
        key = str(value["evidence_id"])
        where.setdefault(key, number)
        more = value.get("answers_additional") or []
        also = [answer for answer in more if isinstance(answer, str) and answer.strip()] if type(more) is list else []
        asked.setdefault(key, []).append((value["question"].strip(), [*answers, *also]))
    return _by_document(path, asked, where, documents, "evidence_id", part)


def archivalqa(path: Path, documents: Path, part: tuple[float, float] = (0.0, 1.0)) -> Groups:
    """ArchivalQA: CSV of `id, question, answer, org_answer, answer_start, para_id, trans_que, trans_ans, source`."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 at byte {error.start}.") from None
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    expected = {"question", "answer", "para_id"}
    asked: dict[str, list[tuple[str, list[str]]]] = {}
    where: dict[str, int] = {}
    try:
        if not expected <= set(rows.fieldnames or ()):
            missing = ", ".join(sorted(expected - set(rows.fieldnames or ())))
            raise InvalidInputError(f"{path}, line 1: no column {missing}; expected ArchivalQA's.")
        for row in rows:
            if any(not (row[key] or "").strip() for key in expected):
                empty = ", ".join(sorted(key for key in expected if not (row[key] or "").strip()))
                raise InvalidInputError(f"{path}, line {rows.line_num}: {empty} is empty.")
            where.setdefault(row["para_id"], rows.line_num - 1)
            asked.setdefault(row["para_id"], []).append((row["question"].strip(), [row["answer"].strip()]))
    except csv.Error as error:
        raise InvalidInputError(f"{path}, line {rows.reader.line_num}: not valid CSV ({error}).") from None
    return _by_document(path, asked, where, documents, "para_id", part)


def _by_document(
    path: Path,
    asked: dict[str, list[tuple[str, list[str]]]],
    where: dict[str, int],
    documents: Path,
    key: str,
    part: tuple[float, float],
) -> Groups:
    """Questions grouped by the document that answers them, whose text is read when it is asked for."""
    lines = Lines(documents)
    places: dict[str, int] = {}
    for number, value in lines.objects():
        name = value.get(key, value.get("id"))
        if name is None or not isinstance(value.get("text"), str) or not value["text"].strip():
            raise InvalidInputError(f"{documents}, line {number + 1}: expected {key!r} (or 'id') and a 'text'.")
        places[str(name)] = number
    for name in asked:
        if name not in places:
            raise InvalidInputError(f"{path}, line {where[name] + 1}: {documents} has no document {key}={name!r}.")
    names = part_of(list(asked), part)

    def read(index: int) -> Group:
        name = names[index]
        return Group.of([lines.object(places[name])["text"]], asked[name])

    def corpus() -> Sequence[str]:
        return [lines.object(number)["text"] for number in places.values()]

    return Groups(_some(path, len(names)), read, corpus)


def _held(path: Path, groups: list[Group]) -> Groups:
    return Groups(
        _some(path, len(groups)),
        groups.__getitem__,
        lambda: list(dict.fromkeys(text for group in groups for text in group.documents)),
    )


def _some(path: Path, count: int) -> int:
    if not count:
        raise InvalidInputError(f"{path}: no question in the chosen part of the file.")
    return count


class Passages:
    """Plain text cut into passages at spaces, by number. A plain file stays on disk; a compressed one is kept whole.

    Args:
        path: text, its documents separated by a form feed on a line of its own.
        part: which share of its documents.
        size: characters of a passage, about.
    """

    def __init__(self, path: Path, part: tuple[float, float] = (0.0, 1.0), *, size: int = 3000) -> None:
        self._text = read_bytes(path) if is_compressed(path) else _mapped(path)
        self._spans: list[tuple[int, int]] = []
        documents, start = [], 0
        while start < len(self._text):
            stop = self._text.find(b"\f", start)
            stop = len(self._text) if stop < 0 else stop
            documents.append((start, stop))
            start = stop + 1
        for start, stop in part_of(documents, part):
            while start < stop:
                end = stop if stop - start <= size * 3 // 2 else self._space(start + size, stop)
                if self._text[start:end].strip():
                    self._spans.append((start, end))
                start = end
        if not self._spans:
            raise InvalidInputError(f"{path}: no text in the chosen part of the file.")
        self._check_utf8(path)

    def _check_utf8(self, path: Path) -> None:
        decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
        for start in range(0, len(self._text), _PIECE):
            piece = self._text[start : start + _PIECE]
            try:
                decoder.decode(piece, start + _PIECE >= len(self._text))
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise InvalidInputError(f"{path}, line {line}: not UTF-8.") from None
            line += piece.count(b"\n")

    def _space(self, place: int, stop: int) -> int:
        found = [at for at in (self._text.find(space, place, stop) for space in (b" ", b"\n")) if at >= 0]
        return min(found, default=stop)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> str:
        start, stop = self._spans[index]
        return self._text[start:stop].decode("utf-8").strip()
