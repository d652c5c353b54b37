"""Documents, hits and answers, and the coercion of whatever users pass in.

Nothing here imports a framework: foreign document objects are recognised by their shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cmt_memory.errors import InvalidInputError

Question = str | Sequence[dict[str, Any]]
"""A question, or the messages of a conversation, ``[{"role": "user", "content": "…"}, …]``."""
Mode = Literal["memory", "text", "none"]
"""What an answer is made from: memories, the same passages as text, or nothing."""
LONGEST_TTL = 10_000_000_000
"""Seconds, about 300 years: the longest time to live of a document."""
_MAX_DEPTH = 64
_TEXT_KEYS = ("text", "page_content", "content")


@dataclass(slots=True)
class Document:
    """A text to remember.

    Args:
        text: The text; not empty, not only whitespace.
        metadata: JSON values by string key, kept and returned; scalars can be filtered on.
        id: Name of the document in the store; the sha256 of text and metadata if not given.

    Examples:
        >>> from cmt_memory import Document
        >>> Document("Ada was born in 1815.", {"source": "notes"}).metadata["source"]
        'notes'
    """

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(slots=True)
class MemoryHit:
    """A passage found for a question.

    Args:
        id: Id of the document.
        passage: Id of the passage, ``"<document id>#<n>"``.
        span: Start and end of the passage in the document's text, in characters.
        score: Relevance in [0, 1]: ``(1 + cosine) / 2``, or without an encoder the share of the
            question's idf weight that the passage contains.
        scores: Raw value of each channel that found the passage: ``dense`` is the cosine (given for every
            hit where there is an encoder), ``bm25`` the BM25 value, ``memory`` the cosine of the memories' own
            vectors.
        text: The passage; empty in a store that keeps no text.
        metadata: The document's metadata.
    """

    id: str
    passage: str
    span: tuple[int, int]
    score: float
    scores: dict[str, float]
    text: str
    metadata: dict[str, Any]


@dataclass(slots=True)
class Usage:
    """What an answer cost.

    Args:
        prompt_tokens: Tokens given to the language model, question and template included.
        memory_slots: Prefix positions taken by memories.
        completion_tokens: Tokens generated.
        contrast_tokens: Tokens that the memory-free second pass read and generated (``alpha`` ≠ 0).
        left_out: Hits whose prefix did not fit into the context.
        packed: True when positions were packed because the spread ones exceed the model's maximum.
        passes: How often the LM was asked: 2 where the text was read after the memories, and then the tokens of both
            are counted.
    """

    prompt_tokens: int = 0
    memory_slots: int = 0
    completion_tokens: int = 0
    contrast_tokens: int = 0
    left_out: int = 0
    packed: bool = False
    passes: int = 1


@dataclass(slots=True)
class Answer:
    """An answer with what it rests on.

    Args:
        text: The generated text, without the prompt.
        hits: The memories that were used, most relevant first.
        grounded: True when at least one hit was used.
        usage: Token and slot counts.
        timings: Seconds by stage; ``memory`` is the pass with memories where the text was read after it.
        finish_reason: ``"stop"`` (end of sequence or a stop string) or ``"length"``.
        mode: What it was made from: ``"text"`` too where the answer from memories was doubted (``fallback``).
        confidence: How likely it is right, 0 to 1, where the store or its model is calibrated (``calibration``);
            without, the probability of its least likely token, which orders answers and promises nothing. None where
            no hit was used.
        answerable: How likely the documents hold an answer at all, 0 to 1; None where nothing was calibrated on
            questions without an answer, or no hit was used.
    """

    text: str
    hits: list[MemoryHit] = field(default_factory=list)
    grounded: bool = False
    usage: Usage = field(default_factory=Usage)
    timings: dict[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    mode: Mode = "memory"
    confidence: float | None = None
    answerable: float | None = None


class CoercedDocuments(NamedTuple):
    """What `coerce_documents` returns: the distinct documents, and one id per given position."""

    documents: list[Document]
    ids: list[str]


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Write metadata as canonical JSON: sorted keys, no spaces, ``NaN`` and ``Infinity`` as such.

    Raises:
        InvalidInputError: A value is not a JSON value; the message names its key path.
    """
    return _dump(_plain(metadata, "metadata", 0))


def content_id(text: str, metadata: Mapping[str, Any] | None = None) -> str:
    """Hash a text and its metadata to the id that a document without an id gets.

    Two documents have the same id exactly if their texts are equal and their metadata have the same canonical
    JSON, so the order of keys does not matter while ``1``, ``1.0`` and ``True`` differ.

    Returns:
        The sha256 as 64 hexadecimal digits.

    Raises:
        InvalidInputError: The text has lone surrogates, or the metadata is not JSON.
    """
    return _content_id(text, metadata_json(metadata or {}))


def coerce_documents(
    items: Any,
    *,
    metadatas: Sequence[Mapping[str, Any] | None] | None = None,
    ids: Sequence[str | None] | None = None,
) -> CoercedDocuments:
    """Turn what users pass in into documents with ids, checking everything first.

    Args:
        items: One or an iterable of: a text, a `Document`, a dict with ``text`` (or ``page_content``,
            ``content``), ``metadata`` and ``id``, an object with ``page_content`` and ``metadata``, or an
            object with ``get_content()`` (or ``text``), ``metadata`` and ``node_id`` (or ``id_``).
        metadatas: Metadata per item, laid over the item's own.
        ids: Id per item in place of the item's own; ``None`` keeps it.

    Returns:
        The distinct documents in the order of first appearance, and one id per item. The same document
        given twice is one document with two positions.

    Raises:
        InvalidInputError: An item is empty, only whitespace or not a document, has lone surrogates or
            metadata that is not JSON, or an id is used for two different contents. The message names the
            position.
    """
    given = _as_list(items)
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values is not None and (isinstance(values, str) or len(values) != len(given)):
            got = "a string" if isinstance(values, str) else f"{len(values)} values"
            raise InvalidInputError(f"{name} has {got} for {len(given)} documents; give one per document.")
    seen: dict[str, tuple[str, str]] = {}
    result = CoercedDocuments([], [])
    for position, item in enumerate(given):
        text, metadata, own_id = _parts(item, position)
        if metadatas is not None and metadatas[position] is not None:
            metadata = {**metadata, **_mapping(metadatas[position], position)}
        if ids is not None and ids[position] is not None:
            own_id = ids[position]
        _check_text(text, position)
        plain = _plain(metadata, f"document {position}: metadata", 0)
        canonical = _dump(plain)
        id = _content_id(text, canonical) if own_id is None else _check_id(own_id, position)
        if id not in seen:
            seen[id] = (text, canonical)
            result.documents.append(Document(text, plain, id))
        elif seen[id] != (text, canonical):
            raise InvalidInputError(
                f"document {position}: id {id!r} is given twice in this call with different contents; "
                "give each document its own id."
            )
        result.ids.append(id)
    return result


def _as_list(items: Any) -> list[Any]:
    if isinstance(items, str | bytes | Document | Mapping) or not isinstance(items, Iterable):
        return [items]
    if any(hasattr(items, name) for name in ("page_content", "get_content", "text")):  # pydantic models iterate
        return [items]
    return list(items)


def _parts(item: Any, position: int) -> tuple[Any, dict[str, Any], Any]:
    """Take text, metadata and id out of one item, by its shape."""
    if isinstance(item, str):
        return item, {}, None
    if isinstance(item, Document):
        return item.text, _mapping(item.metadata, position), item.id
    if isinstance(item, Mapping):
        return _mapping_parts(item, position)
    if hasattr(item, "page_content"):
        return (
            item.page_content,
            _mapping(getattr(item, "metadata", None), position),
            getattr(item, "id", None),
        )
    get_content = getattr(item, "get_content", None)
    if callable(get_content) or isinstance(getattr(item, "text", None), str):
        text = get_content() if callable(get_content) else item.text
        id = getattr(item, "node_id", None) or getattr(item, "id_", None)
        return text, _mapping(getattr(item, "metadata", None), position), id
    raise InvalidInputError(
        f"document {position} is {_describe(item)}; expected a str, a Document, a dict with 'text', or an object "
        "with page_content or get_content()."
    )


def _mapping_parts(item: Mapping[Any, Any], position: int) -> tuple[Any, dict[str, Any], Any]:
    named = [key for key in _TEXT_KEYS if key in item]
    unknown = [key for key in item if key not in (*_TEXT_KEYS, "metadata", "id")]
    if len(named) != 1:
        raise InvalidInputError(
            f"document {position} is a dict with the keys {list(item)}; expected exactly one of {list(_TEXT_KEYS)}."
        )
    if unknown:
        raise InvalidInputError(
            f"document {position} has the unknown keys {unknown}; put them under 'metadata' to keep them."
        )
    return item[named[0]], _mapping(item.get("metadata"), position), item.get("id")


def _mapping(metadata: Any, position: int) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"document {position}: metadata is {_describe(metadata)}; expected a dict.")
    return dict(metadata)


def _check_text(text: Any, position: int) -> None:
    if not isinstance(text, str):
        raise InvalidInputError(f"document {position}: the text is {_describe(text)}; expected a str.")
    if not text or text.isspace():
        what = "empty" if not text else "only whitespace"
        raise InvalidInputError(f"document {position}: the text is {what}; expected something to remember.")
    _check_unicode(text, f"document {position}: the text")


def _check_id(id: Any, position: int) -> str:
    if not isinstance(id, str) or not id.strip():
        raise InvalidInputError(f"document {position}: the id is {_describe(id)}; expected a non-empty str.")
    _check_unicode(id, f"document {position}: the id")
    return str(id)


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"{where} has a lone surrogate at character {error.start}, which no UTF-8 file can hold; "
            "decode the source with errors='replace'."
        ) from None


def _plain(value: Any, path: str, depth: int) -> Any:
    """Copy a JSON value into plain Python types, or say where it is not one."""
    if depth > _MAX_DEPTH:
        raise InvalidInputError(f"{path[:80]}… is nested deeper than {_MAX_DEPTH} levels.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_unicode(value, path)
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{number}]", depth + 1) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{path} has the key {key!r}; keys must be str.")
            _check_unicode(key, f"a key of {path}")
        return {str(key): _plain(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}
    raise InvalidInputError(
        f"{path} is {_describe(value)}; metadata holds JSON values (str, bool, int, float, None, list, dict)."
    )


def _dump(plain: Any) -> str:
    try:
        return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except ValueError as error:
        raise InvalidInputError(f"the metadata cannot be written as JSON: {error}") from None


def _content_id(text: str, canonical: str) -> str:
    # JSON never holds a raw NUL, so the last one separates the two whatever the text is.
    _check_unicode(text, "the text")
    return hashlib.sha256(text.encode() + b"\0" + canonical.encode()).hexdigest()


def _describe(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
