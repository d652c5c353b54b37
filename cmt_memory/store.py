"""CMTMemoryStore: bank, model and selector as the one object a user holds."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.documents import Answer, Document, MemoryHit, coerce_documents
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.generation.request import Completion, checked_settings
from cmt_memory.ingestion import Ingestion, OnProgress
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.loading import bundled
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.retrieval.encoders import NO_ENCODER, Encoder, resolve_encoder
from cmt_memory.retrieval.selector import HybridSelector, check_k

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

logger = logging.getLogger(__name__)

T = TypeVar("T")

Mode = Literal["memory", "text", "none"]
MODES = ("memory", "text", "none")


class CMTMemoryStore:
    """Documents in, answers out of a frozen LM, nothing in the prompt.

    A folder that keeps every document's text, retrieval vector and memory. It is a context manager.

    Args:
        path: the store's folder; made if missing.
        model: a `CMTModel`, a bundled or saved one's name or folder, or any LM's hub id or folder. What memories
            depend on (ratio, latent, PCA, prompt head) is taken from an existing store.
        encoder: the retrieval encoder; `"auto"` takes the store's own, else the best one at hand; see
            `cmt_memory.retrieval.encoders.resolve_encoder`. None searches by words alone.
        client: a Chroma client that holds the index in place of the folder, for several processes.
        read_only: read beside a process that writes.
        keep_text: keep the texts; without them there is no `mode="text"`, no BM25 and no recompressing.
        channels: how to search: `"dense"`, `"bm25"` or both.
        passage_tokens: the longest passage that becomes one memory, in the LM's tokens; at most half of its
            positions.
        passage_overlap: tokens that neighbouring passages share.
        slot_dtype: `"int8"`, `"float16"` or `"native"`; lossless memories (ratio 1, `latent="full"`) are always kept
            in the LM's own dtype.

    Raises:
        StoreLockedError: another process has the store open for writing.
        FingerprintMismatchError: the store was made with another LM, tokenizer or compressor.
        StoreCorruptError: the ledger cannot be read.

    Examples:
        >>> store = CMTMemoryStore(path, model="cmt-tiny")  # doctest: +SKIP
        >>> store.add_documents(["Mara's locker code is 4471."])  # doctest: +SKIP
        >>> store.ask("What is Mara's locker code?").text  # doctest: +SKIP
        '4471'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str | CMTModel = "cmt-tiny",
        *,
        encoder: Any = "auto",
        client: ClientAPI | None = None,
        read_only: bool = False,
        keep_text: bool = True,
        channels: Sequence[str] = ("dense", "bm25"),
        passage_tokens: int = 512,
        passage_overlap: int = 64,
        slot_dtype: Literal["int8", "float16", "native"] = "int8",
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not str(path):
            raise InvalidInputError(f"path must name the store's folder, not {path!r}.")
        self.path = Path(path)
        self._add_lock = threading.Lock()
        given = model if isinstance(model, CMTModel) else load_model(model)
        self.bank = MemoryBank(path, read_only=read_only, keep_text=keep_text, client=client)
        try:
            self.model = self._settle_model(given)
            self.encoder = self._settle_encoder(encoder)
            self._ingestion = Ingestion(
                self.bank,
                self.model,
                self.encoder,
                passage_tokens=passage_tokens,
                passage_overlap=passage_overlap,
                slot_dtype=slot_dtype,
            )
            self.selector = HybridSelector(self.bank, self.encoder, channels=tuple(channels))
            self.generator = CMTGenerator(self.model, source=self)
        except BaseException:
            self.bank.close()
            raise

    # -- documents ---------------------------------------------------------------------------------------------

    def add_documents(
        self,
        documents: Any,
        *,
        metadatas: Sequence[dict[str, Any] | None] | None = None,
        ids: Sequence[str | None] | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> list[str]:
        """Compress documents and keep them; what is there already costs no LM pass.

        An id that is not given is the hash of text and metadata, so adding the same document twice is one memory.
        A changed text under the same id replaces the old one. Long documents become several passages, committed
        together. An interrupted call keeps what was committed: call again with the same documents to go on.

        Args:
            documents: strings, `Document`s, dicts, or the documents of a framework; one or many.
            metadatas: metadata for each document, over its own.
            ids: ids for each document, in place of its own.
            show_progress: draw a progress bar.
            on_progress: called with the ids of each commit.

        Returns:
            One id a document, in order.

        Raises:
            InvalidInputError: something about a document cannot be used (empty, not text, an id given twice);
                nothing was changed.
            StoreFullError: the disk has no room; what `on_progress` was called with is kept.
        """
        coerced = coerce_documents(documents, metadatas=metadatas, ids=ids)
        self.bank.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        with self._add_lock:
            self._ingestion.add(coerced.documents, show_progress=show_progress, on_progress=on_progress)
        return coerced.ids

    def get(self, ids: str | Sequence[str]) -> list[Document]:
        """Documents by id, in the order asked for; unknown ids are left out."""
        return self.bank.get(_id_list(ids))

    def delete(self, ids: str | Sequence[str]) -> None:
        """Delete documents and their memories.

        Raises:
            InvalidInputError: an id is unknown; nothing was deleted.
        """
        self.bank.delete(_id_list(ids))

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.bank)

    # -- questions ---------------------------------------------------------------------------------------------

    def search(
        self, question: str, k: int = 4, filter: dict[str, Any] | None = None, min_score: float | None = None
    ) -> list[MemoryHit]:
        """The passages most relevant to a question, best first.

        Args:
            question: any text.
            k: how many at most.
            filter: a condition on metadata, such as `{"year": {"$gte": 2024}}`.
            min_score: leave out hits with a lower `score`.

        Raises:
            InvalidInputError: an empty question, `k` below 1, or a filter that means nothing.
        """
        return self.selector.select(question, k, filter=filter, min_score=min_score)

    def ask(
        self,
        question: str,
        *,
        k: int = 4,
        mode: Mode = "memory",
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        memory_ids: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> Answer:
        """Answer a question from the store.

        Args:
            question: the question.
            k: passages to use at most.
            mode: `"memory"` injects memories, `"text"` puts the same passages into the prompt as text, `"none"` asks
                the LM alone.
            filter: see `search`.
            min_score: see `search`; with no hit left the LM answers alone and `grounded` is False.
            memory_ids: ids of documents or passages to use instead of searching.
            max_new_tokens: tokens to generate at most.
            temperature: 0 takes the most likely token.
            top_p: sample from the smallest set of tokens with this much probability.
            seed: makes sampling repeatable.
            stop: strings that end the answer.
            alpha: contrast with the LM without memory, in `mode="memory"`.

        Raises:
            InvalidInputError: an argument is out of range, an id is unknown, or the question is longer than the
                LM's context.
        """
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "alpha": alpha,
        }
        completion, hits, searched = self._with_hits(
            self.generator.generate, question, k, mode, filter, min_score, memory_ids, settings
        )
        return _answer(completion, hits, searched)

    def stream(
        self,
        question: str,
        *,
        k: int = 4,
        mode: Mode = "memory",
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        memory_ids: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece; arguments as `ask`. The generator's return value is the `Answer`."""
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "alpha": alpha,
        }
        pieces, hits, searched = self._with_hits(
            self.generator.stream, question, k, mode, filter, min_score, memory_ids, settings
        )
        return _streamed(pieces, hits, searched)

    def _with_hits(
        self,
        run: Callable[..., T],
        question: str,
        k: int,
        mode: str,
        filter: dict[str, Any] | None,
        min_score: float | None,
        memory_ids: Sequence[str] | None,
        settings: dict[str, Any],
    ) -> tuple[T, list[MemoryHit], float]:
        """Find hits and run the LM with them; a hit that is deleted in between is dropped."""
        started = time.perf_counter()
        hits = self._hits(question, k, mode, filter, min_score, memory_ids)
        searched = time.perf_counter() - started
        checked_settings(**settings)
        if mode != "memory":
            settings = settings | {"alpha": 0.0}
        try:
            return run(question, **_context(hits, mode), **settings), hits, searched
        except InvalidInputError:
            known = self.bank.contains([hit.id for hit in hits])
            alive = [hit for hit in hits if hit.id in known]
            if len(alive) == len(hits):
                raise
            return run(question, **_context(alive, mode), **settings), alive, searched

    def _hits(
        self,
        question: str,
        k: int,
        mode: str,
        filter: dict[str, Any] | None,
        min_score: float | None,
        memory_ids: Sequence[str] | None,
    ) -> list[MemoryHit]:
        if mode not in MODES:
            raise InvalidInputError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
        if mode == "text" and not self.bank.keep_text:
            raise InvalidInputError('This store keeps no text (keep_text=False), so mode="text" has none to show.')
        check_k(k)
        named = None if memory_ids is None else self._named(_id_list(memory_ids))
        if mode == "none":
            return []
        return self.search(question, k, filter=filter, min_score=min_score) if named is None else named

    def _named(self, ids: Sequence[str]) -> list[MemoryHit]:
        """Hits for single passages, or for documents with all of their passages, in the order given."""
        names: dict[str, None] = {}
        for id in ids:
            names |= dict.fromkeys([id] if self.bank.is_passage(id) else self.bank.passage_ids([id]))
        return [
            MemoryHit(row.document, name, (row.start, row.end), 1.0, {}, row.text, row.metadata)
            for name, row in zip(names, self.bank.passages_by_id(list(names)), strict=True)
        ]

    def memory_keys(self, passages: Sequence[str]) -> list[str]:
        """Content digests of memories, for the generator's cache of prefixes."""
        return self.bank.payload_digests(passages)

    def load_memories(self, passages: Sequence[str]) -> list[Memory]:
        """Memories of passages by id, for the generator."""
        return self.bank.payloads(passages)

    # -- the store itself --------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counts and sizes; see `MemoryBank.stats`, and what memories are made with."""
        config = self.model.config
        return self.bank.stats() | {
            "model": config.lm,
            "ratio": config.ratio,
            "latent": config.latent,
            "slot_dtype": self._ingestion.slot_dtype,
            "encoder": self.encoder.id if self.encoder is not None else None,
        }

    def close(self) -> None:
        """Close the store; closing twice is fine, using it afterwards raises `StoreClosedError`."""
        self.bank.close()

    def __enter__(self) -> CMTMemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- opening -----------------------------------------------------------------------------------------------

    def _settle_model(self, model: CMTModel) -> CMTModel:
        """The model as this store's memories need it; a new store remembers the model's settings."""
        stored = self.bank.meta("model")
        if not self.bank.read_only and (stored is None or not self.bank.shared) and not len(self.bank):
            mine = model.saved_config().model_dump()
            stored = self.bank.settle_meta("model", mine, tensors_to_bytes(model.state()), anew=not self.bank.shared)
            if stored == mine:
                return model
        if stored is None:
            return model
        config = CMTConfig.model_validate(stored)
        explicit = {name: getattr(model.config, name) for name in model.explicit}
        for setting, value in explicit.items():
            if getattr(config, setting) != value:
                raise FingerprintMismatchError(
                    f"The store at {self.path} keeps memories of {setting}={getattr(config, setting)}, and "
                    f"{setting}={value} was given: leave it out, or make a new store in another folder."
                )
        settled = model.with_state(config, tensors_from_bytes(self.bank.asset("model") or b""))
        if settled.fingerprint != config.fingerprint:
            ours, theirs = (
                {part: value[:24] for part, value in found.items()}
                for found in (config.fingerprint, settled.fingerprint)
            )
            differing = [part for part in ours if config.fingerprint[part] != settled.fingerprint.get(part)]
            raise FingerprintMismatchError(
                f"The store at {self.path} was made with another model ({config.lm or 'an LM without a name'}): "
                f"{', '.join(differing)} differ. Open it with that model, or add its documents to a new store.\n"
                f"  store: {json.dumps(ours)}\n  given: {json.dumps(theirs)}"
            )
        if len(self.bank):
            settled.hold()
        return settled

    def _settle_encoder(self, encoder: Any) -> Encoder | None:
        """The encoder to search with; another one than the store's gives every passage a new vector."""
        stored = self.bank.encoder
        resolved = resolve_encoder(encoder, stored_id=stored["id"] if stored else None)
        if resolved is None:
            if stored is None and not self.bank.read_only:
                self.bank.set_meta("encoder", {"id": NO_ENCODER, "dimension": 0})
            elif stored is not None and stored["id"] != NO_ENCODER and not self.bank.read_only:
                raise InvalidInputError(
                    f"The store at {self.path} is searched by {stored['id']}; with encoder=None new documents would "
                    'have no vector. To search by words alone, pass channels=("bm25",).'
                )
            return None
        if not self.bank.read_only:
            if stored is not None and stored["id"] != resolved.id and len(self.bank):
                logger.warning("%s: encoding its passages anew by %s", self.path, resolved.id)
            self.bank.replace_encoder(resolved.id, resolved.dimension, resolved.encode_documents)
        elif stored is not None and stored["id"] != resolved.id:
            raise InvalidInputError(
                f"The store at {self.path} was made with the encoder {stored['id']}, and read_only cannot encode it "
                f"anew by {resolved.id}."
            )
        return resolved


def load_model(name: str) -> CMTModel:
    """A model by name: bundled (`"cmt-tiny"`), a folder that `save_pretrained` wrote, or any LM's id or folder."""
    if not isinstance(name, str | os.PathLike):
        raise InvalidInputError(f"model must be a CMTModel, a name or a folder, not {type(name).__name__}.")
    if bundled(str(name)) or (Path(name) / "cmt.safetensors").exists():
        return CMTModel.from_pretrained(name)
    return CMTModel.from_llm(name)


def _context(hits: list[MemoryHit], mode: str) -> dict[str, Any]:
    return {"texts": [hit.text for hit in hits]} if mode == "text" else {"memories": hits}


def _answer(completion: Completion, hits: list[MemoryHit], searched: float) -> Answer:
    used = hits[: completion.memories]
    timings = {"search": searched, **{name: value for name, value in completion.timings.items()}}
    for name in ("first_token", "total"):
        if name in timings:
            timings[name] += searched
    return Answer(completion.text, used, bool(used), completion.usage, timings)


def _streamed(
    pieces: Generator[str, None, Completion], hits: list[MemoryHit], searched: float
) -> Generator[str, None, Answer]:
    completion = yield from pieces
    return _answer(completion, hits, searched)


def _id_list(ids: str | Sequence[str]) -> list[str]:
    given = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Sequence) else [ids]
    if not all(isinstance(id, str) for id in given):
        raise InvalidInputError(f"ids must be strings, not {given!r}.")
    if any("\ud800" <= character <= "\udfff" for id in given for character in id):
        raise InvalidInputError(f"ids have no lone surrogates, and these have: {given!r}.")
    return given
