"""Files to documents: text, Markdown, JSONL and PDF, with ids that stay when a file is read again."""

from __future__ import annotations

import codecs
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError

JSONL = {".jsonl", ".ndjson"}
PDF = {".pdf"}
TEXT = {".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".py"}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_RECORD_KEYS = {"text", "id", "metadata"}


@dataclass(slots=True)
class Reading:
    """What was found under the paths a user named.

    Attributes:
        documents: what was read.
        files: the files it came from, absolute.
        skipped: for files of a folder that were left out, the reason.
        ignored: how many files of a folder have a suffix that is not read, by suffix.
    """

    documents: list[Document] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


def read_paths(paths: Sequence[Path], *, outside: Path | None = None) -> Reading:
    """Read files and, recursively, folders.

    In a folder, hidden files are passed over, files of other kinds counted, and files that cannot be read noted;
    a file that was named itself must be readable.

    Args:
        paths: files and folders.
        outside: a folder that is never entered, such as the store's own.

    Raises:
        InvalidInputError: a file that was named is empty, binary or broken; the message names it.
    """
    reading = Reading()
    seen: set[Path] = set()
    for path in paths:
        for file in _files(path, outside):
            if file in seen:
                continue
            seen.add(file)
            if path.is_dir() and file.suffix.lower() not in TEXT | JSONL | PDF:
                reading.ignored[file.suffix.lower() or "no suffix"] += 1
                continue
            if path.is_dir() and file.exists() and not file.is_file():
                reading.skipped[str(file)] = "this is a pipe or a device, not a file."  # reading one may never end
                continue
            try:
                reading.documents += read_file(file)
                reading.files.append(str(file))
            except (InvalidInputError, OSError) as error:
                if not path.is_dir():
                    raise
                reading.skipped[str(file)] = str(error).removeprefix(f"{file}: ")
    return reading


def read_file(path: Path) -> list[Document]:
    """The documents of one file: one of a text, one a page of a PDF, one a line of JSONL.

    The file's absolute path is `metadata["source"]`, or `metadata["file"]` where a JSONL record has a source of
    its own, and the id: with `#page=N` for a page, with a hash of its content for a record without an id.

    Raises:
        InvalidInputError: nothing to read in it, or it is not what its suffix says.
    """
    path = path.absolute()
    suffix = path.suffix.lower()
    if suffix in PDF:
        return list(_pages(path))
    text = _text(path)
    if suffix in JSONL:
        return list(_records(path, text))
    return [Document(text, {"source": str(path)}, str(path))]


def origin(metadata: dict[str, Any]) -> str | None:
    """The file a stored document was read from, as `read_file` noted it."""
    file = metadata.get("file", metadata.get("source"))
    return file if isinstance(file, str) else None


def _files(path: Path, outside: Path | None) -> Iterator[Path]:
    path = path.absolute()
    if not path.is_dir():
        yield path
        return
    barred = outside.resolve() if outside is not None else None
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(folder) / name).resolve() != barred
        )
        if Path(folder).resolve() == barred:
            folders[:] = []
            continue
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _text(path: Path) -> str:
    data = path.read_bytes()
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: this is not text in UTF-8, so it cannot be read.") from None
    if not text or text.isspace():
        raise InvalidInputError(f"{path}: the file is empty.")
    if encoding == "utf-8" and text.count("\0") > len(text) // 100:
        raise InvalidInputError(f"{path}: this is a binary file, not text.")
    return text


def _records(path: Path, text: str) -> Iterator[Document]:
    from cmt_memory.documents import content_id

    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{where} is not JSON: {error}.") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str) or set(record) - _RECORD_KEYS:
            raise InvalidInputError(
                f'{where} is not a document; expected {{"text": "…", "id": "…", "metadata": {{…}}}}, of which id '
                "and metadata may be left out."
            )
        if not record["text"].strip():
            raise InvalidInputError(f"{where} has an empty text.")
        metadata = record.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise InvalidInputError(f"{where}: metadata is {metadata!r}; expected an object.")
        own_id = record.get("id")
        if own_id is not None and (not isinstance(own_id, str) or not own_id.strip()):
            raise InvalidInputError(f"{where}: id is {own_id!r}; expected a string that is not empty.")
        placed = metadata | {"file" if "source" in metadata else "source": str(path)}
        yield Document(record["text"], placed, own_id or f"{path}#{content_id(record['text'], metadata)[:16]}")


def _pages(path: Path) -> Iterator[Document]:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    found = False
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidInputError(f"{path}: the PDF is locked with a password.")
        for number, page in enumerate(reader.pages, start=1):
            # Broken fonts give surrogates that no UTF-8 file can hold.
            text = page.extract_text().encode("utf-8", "replace").decode("utf-8")
            if text.strip():
                found = True
                yield Document(text, {"source": str(path), "page": number}, f"{path}#page={number}")
    except InvalidInputError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"{path}: the PDF cannot be read: {error}.") from error
    if not found:
        raise InvalidInputError(f"{path}: the PDF has no text in it (is it scanned?).")
