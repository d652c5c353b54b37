"""CMTMemoryStore: bank, model and selector as the one object a user holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cmt_memory.adapters import Adapters
from cmt_memory.asynchronous import AsyncTwins
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.contents import Contents, id_list
from cmt_memory.documents import LONGEST_TTL, Answer, Document, MemoryHit, Question, coerce_documents
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.generation.request import Completion, checked_settings
from cmt_memory.ingestion import OnProgress
from cmt_memory.model.modeling import CMTModel
from cmt_memory.opening import load_model, settle_encoder, settle_model
from cmt_memory.recompression import recompress
from cmt_memory.retrieval.selector import HybridSelector, check_k
from cmt_memory.upkeep import Upkeep

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from numpy.typing import ArrayLike

T = TypeVar("T")

Mode = Literal["memory", "text", "none"]
MODES = ("memory", "text", "none")


class CMTMemoryStore(Upkeep, Contents, AsyncTwins, Adapters):
    """Documents in, answers out of a frozen LM, nothing in the prompt.

    A folder that keeps every document's text, retrieval vector and memory. It is a context manager. Every method
    has an async twin, `a` + its name, that never blocks the event loop (but the `as_…` ones, which only wrap it).

    Args:
        path: the store's folder; made if missing.
        model: a `CMTModel`, a bundled or saved one's name or folder, or any LM's hub id or folder. What memories
            depend on (ratio, latent, PCA, prompt head) is taken from an existing store.
        encoder: the retrieval encoder; `"auto"` takes the store's own, else the best one at hand; see
            `cmt_memory.retrieval.encoders.resolve_encoder`. None searches by words alone.
        client: a Chroma client that holds the index in place of the folder, for several processes.
        read_only: read beside a process that writes.
        keep_text: keep the texts; without them there is no `mode="text"`, no BM25 and no recompressing.
        channels: how to search: any of `"dense"`, `"bm25"` and `"memory"`. The last compares the question's own
            memory with those of the passages; it costs an LM pass for each question and a vector of `latent` numbers
            for each passage, twice (`stats` shows the bytes).
        passage_tokens: the longest passage that becomes one memory, in the LM's tokens; at most half of its
            positions.
        passage_overlap: tokens that neighbouring passages share.
        slot_dtype: `"int8"`, `"float16"` or `"native"`; lossless memories (ratio 1, `latent="full"`) are always kept
            in the LM's own dtype.
        lazy: keep new documents searchable at once but uncompressed, until they are first used for an answer or
            `compress_pending` is called; answers are the same. Needs `keep_text`.
        clock: what tells the time for `ttl`, in seconds since 1970.

    Raises:
        StoreLockedError: another process has the store open for writing.
        FingerprintMismatchError: the store was made with another LM, tokenizer or compressor.
        StoreCorruptError: the ledger cannot be read.

    Examples:
        >>> from cmt_memory import CMTMemoryStore
        >>> with CMTMemoryStore("mem", model="cmt-tiny") as store:
        ...     ids = store.add_documents(["Mara's locker code is 4471.", "The shop opens at 9:30."])
        ...     answer = store.ask("What is Mara's locker code?", k=1)
        >>> answer.hits[0].text, answer.grounded, answer.usage.memory_slots > 0
        ("Mara's locker code is 4471.", True, True)
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
        lazy: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not str(path):
            raise InvalidInputError(f"path must name the store's folder, not {path!r}.")
        self.path = Path(path)
        self._clock = clock
        given = model if isinstance(model, CMTModel) else load_model(model)
        own_vectors = not isinstance(channels, str) and "memory" in channels
        bank = MemoryBank(
            path, read_only=read_only, keep_text=keep_text, client=client, clock=clock, memory_index=own_vectors
        )
        try:
            settings = {
                "passage_tokens": passage_tokens,
                "passage_overlap": passage_overlap,
                "slot_dtype": slot_dtype,
                "lazy": lazy,
                "index_memories": own_vectors,
            }
            super().__init__(bank, settle_model(bank, given), settle_encoder(bank, encoder), settings)
            self.selector = HybridSelector(
                self.bank, self.encoder, channels=tuple(channels), compress=self._pooled_question
            )
            if lazy and not self.bank.keep_text:
                raise InvalidInputError(
                    "lazy=True compresses from the kept text, so it does not go with keep_text=False."
                )
            self.bank.warm_up()
            self.selector.warm_up()
        except BaseException:
            bank.close()
            raise

    @classmethod
    def open_recompressed(
        cls,
        path: str | os.PathLike[str],
        model: str | CMTModel,
        *,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> CMTMemoryStore:
        """Make the memories of a store anew by another model and open it with that, as `recompress` does.

        The model of before need not be there any more.

        Args:
            path: the store's folder.
            model: the other model.
            show_progress: draw a progress bar.
            on_progress: called after each commit with the ids of its documents.
            options: of the store, such as `slot_dtype` and `encoder`.

        Raises:
            InvalidInputError: there is no store, or it keeps no text.
            StoreLockedError: the store is open for writing.
        """
        given = model if isinstance(model, CMTModel) else load_model(model)
        MemoryBank(path, read_only=True).close()
        bank = MemoryBank(path, client=options.get("client"))
        try:
            settings = {name: options[name] for name in ("slot_dtype",) if name in options}
            recompress(bank, given, settings=settings, show_progress=show_progress, on_progress=on_progress)
        finally:
            bank.close()
        return cls(path, given, **options)

    # -- documents ---------------------------------------------------------------------------------------------

    def add_documents(
        self,
        documents: Any,
        *,
        metadatas: Sequence[dict[str, Any] | None] | None = None,
        ids: Sequence[str | None] | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        ttl: float | None = None,
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
            ttl: seconds after which these documents are gone, counted from now; they are not found from then on, and
                the next write, opening or `compact` removes them from the disk. Adding a document again sets it
                anew; None keeps it until it is deleted.

        Returns:
            One id a document, in order.

        Raises:
            InvalidInputError: something about a document cannot be used (empty, not text, an id given twice);
                nothing was changed.
            StoreFullError: the disk has no room; what `on_progress` was called with is kept.

        Examples:
            >>> from cmt_memory import CMTMemoryStore, Document
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)  # searched by words alone
            >>> store.add_documents([Document("The shop opens at 9:30.", {"by": "Tom"}, id="hours")])
            ['hours']
            >>> store.add_documents(["The shop opens at 10:00."], ids=["hours"], ttl=3600)  # in its place, for an hour
            ['hours']
            >>> [document.text for document in store.get("hours")]
            ['The shop opens at 10:00.']
        """
        coerced = coerce_documents(documents, metadatas=metadatas, ids=ids)
        self.bank.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        expires = self._expires(ttl)
        with self._add_lock:
            self._ingestion.add(
                coerced.documents, expires=expires, show_progress=show_progress, on_progress=on_progress
            )
        return coerced.ids

    def update(
        self,
        id: str,
        *,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        ttl: float | Literal["keep"] | None = "keep",
    ) -> None:
        """Change a document; what is not given stays as it is. Only another text costs an LM pass.

        Args:
            id: the document.
            text: in place of its text.
            metadata: in place of all its metadata.
            ttl: seconds after which it is gone, counted from now; None to keep it until it is deleted.

        Raises:
            InvalidInputError: the id is unknown, was deleted meanwhile, or a value cannot be used; nothing was
                changed.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> [id] = store.add_documents(["The shop opens at 9:30."])
            >>> store.update(id, metadata={"year": 2024})
            >>> store.documents({"year": 2024})[0].id == id
            True
        """
        self.bank.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        with self._add_lock:
            found = {info.id: info for info in self.bank.infos(id_list(id))}.get(id)
            if found is None:
                raise InvalidInputError(f"There is no document {id!r} to update; add_documents makes one.")
            expires = found.expires if ttl == "keep" else self._expires(ttl)
            kept = found.metadata if metadata is None else metadata
            given = {"text": "-" if text is None else text, "metadata": kept}
            [document] = coerce_documents([given], ids=[id]).documents
            if text is not None:
                self._ingestion.add([document], expires=expires, show_progress=False, on_progress=None, known=True)
            elif metadata is not None:
                self.bank.set_metadata(id, document.metadata, expires)
            elif ttl != "keep":
                self.bank.set_expiry([id], expires)

    def _expires(self, ttl: float | None) -> float | None:
        if ttl is None:
            return None
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_TTL:
            raise InvalidInputError(
                f"ttl is {ttl!r}; expected a number of seconds above 0 and at most {LONGEST_TTL:,}, or None for ever."
            )
        return self._clock() + ttl

    def get(self, ids: str | Sequence[str]) -> list[Document]:
        """Documents by id, in the order asked for; unknown ids are left out."""
        return self.bank.get(id_list(ids))

    def delete(self, ids: str | Sequence[str], *, missing_ok: bool = False) -> None:
        """Delete documents and their memories.

        Args:
            ids: one id or several.
            missing_ok: pass over ids that are unknown, also those that somebody else deletes meanwhile.

        Raises:
            InvalidInputError: an id is unknown; nothing was deleted.
        """
        self.bank.delete(id_list(ids), missing_ok=missing_ok)

    # -- questions ---------------------------------------------------------------------------------------------

    def search(
        self,
        question: str | None,
        k: int = 4,
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        *,
        vector: ArrayLike | None = None,
        channels: Sequence[str] | Mapping[str, float] | None = None,
    ) -> list[MemoryHit]:
        """The passages most relevant to a question, best first.

        Args:
            question: any text; None where there is only a `vector`.
            k: how many at most.
            filter: a condition on metadata, such as `{"year": {"$gte": 2024}}`.
            min_score: leave out hits with a lower `score`.
            vector: the question's vector ``[d]`` in place of the one that the encoder makes of it.
            channels: how to search this time, by some of the store's channels; with a weight for each where one is
                to count for more than another.

        Raises:
            InvalidInputError: an empty question, `k` below 1, a filter that means nothing, a vector of another
                length than the store's, or a channel that the store does not have.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> ids = store.add_documents([{"text": "The shop opens at 9:30.", "metadata": {"year": 2024}}])
            >>> [hit] = store.search("When does the shop open?", filter={"year": {"$gte": 2024}})
            >>> hit.text, hit.span, hit.metadata
            ('The shop opens at 9:30.', (0, 23), {'year': 2024})
            >>> store.search("When does the shop open?", filter={"year": 2023})
            []
        """
        return self.selector.select(question, k, filter=filter, min_score=min_score, vector=vector, channels=channels)

    def ask(
        self,
        question: Question,
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
        tools: list[Any] | None = None,
        lead: str = "",
    ) -> Answer:
        """Answer a question from the store, or take the LM's next turn in a conversation.

        Args:
            question: the question, or messages; of these, the user's last words are searched for.
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
            tools: tool descriptions for the LM's chat template.
            lead: what the answer begins with, such as the opening of a tool call; not part of its text.

        Raises:
            InvalidInputError: an argument is out of range, an id is unknown, or the question is longer than the
                LM's context.

        Returns:
            The answer with the hits it rests on, token and slot counts, and seconds by stage.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> ids = store.add_documents(["Mara's locker code is 4471."])
            >>> memory, text = (store.ask("What is Mara's locker code?", mode=mode) for mode in ("memory", "text"))
            >>> memory.usage.prompt_tokens < text.usage.prompt_tokens  # the document is not in the prompt
            True
            >>> store.ask("Who won in 1998?", min_score=0.9).grounded  # nothing found, the LM answers alone
            False
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
            _complete, question, k, mode, filter, min_score, memory_ids, settings, tools, lead
        )
        return _answer(completion, hits, searched)

    def stream(
        self,
        question: Question,
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
        tools: list[Any] | None = None,
        lead: str = "",
    ) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece; arguments as `ask`. The generator's return value is the `Answer`.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> ids = store.add_documents(["Mara's locker code is 4471."])
            >>> pieces = list(store.stream("What is Mara's locker code?"))
            >>> "".join(pieces) == store.ask("What is Mara's locker code?").text
            True
        """
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "alpha": alpha,
        }
        pieces, hits, searched = self._with_hits(
            _stream, question, k, mode, filter, min_score, memory_ids, settings, tools, lead
        )
        return _streamed(pieces, hits, searched)

    def _with_hits(
        self,
        way: Callable[..., T],
        question: Question,
        k: int,
        mode: str,
        filter: dict[str, Any] | None,
        min_score: float | None,
        memory_ids: Sequence[str] | None,
        settings: dict[str, Any],
        tools: list[Any] | None,
        lead: str,
    ) -> tuple[T, list[MemoryHit], float]:
        """Find hits and run the LM with them; a hit that is deleted in between is dropped.

        Where `recompress` replaces the model in between, the new one answers.
        """
        started = time.perf_counter()
        hits = self._hits(question, k, mode, filter, min_score, memory_ids)
        searched = time.perf_counter() - started
        checked_settings(**settings)
        if mode != "memory":
            settings = settings | {"alpha": 0.0}
        settings = settings | {"tools": tools, "lead": lead}
        generator = self.generator
        try:
            return way(generator, question, **_context(hits, mode), **settings), hits, searched
        except FingerprintMismatchError:
            with self._add_lock:
                if self.generator is generator:
                    raise
            return way(self.generator, question, **_context(hits, mode), **settings), hits, searched
        except InvalidInputError:
            known = self.bank.contains([hit.id for hit in hits])
            alive = [hit for hit in hits if hit.id in known]
            if len(alive) == len(hits):
                raise
            return way(generator, question, **_context(alive, mode), **settings), alive, searched

    def _hits(
        self,
        question: Question,
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
        named = None if memory_ids is None else self.passages(memory_ids)
        if mode == "none":
            return []
        return self.search(_words(question), k, filter=filter, min_score=min_score) if named is None else named

    def __enter__(self) -> CMTMemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _complete(
    generator: CMTGenerator, question: Question, *, tools: list[Any] | None, lead: str, **settings: Any
) -> Completion:
    if isinstance(question, str) and tools is None and not lead:
        return generator.generate(question, **settings)
    return generator.chat(question, tools=tools, lead=lead, **settings)


def _stream(generator: CMTGenerator, question: Question, **settings: Any) -> Generator[str, None, Completion]:
    return generator.stream(question, **settings)


def _words(question: Question) -> str:
    """What to search for: the question, or the last words of a conversation's user."""
    if isinstance(question, str) or not isinstance(question, Sequence):
        return question
    said = [turn.get("content") for turn in question if isinstance(turn, Mapping) and turn.get("role") == "user"]
    words = [text for text in said if isinstance(text, str) and text.strip()]
    if not words:
        raise InvalidInputError("A conversation needs a user message with text.")
    return words[-1]


def _context(hits: list[MemoryHit], mode: str) -> dict[str, Any]:
    return {"texts": [hit.text for hit in hits]} if mode == "text" else {"memories": hits}


def _answer(completion: Completion, hits: list[MemoryHit], searched: float) -> Answer:
    used = hits[: completion.memories]
    timings = {"search": searched, **{name: value for name, value in completion.timings.items()}}
    for name in ("first_token", "total"):
        if name in timings:
            timings[name] += searched
    return Answer(completion.text, used, bool(used), completion.usage, timings, completion.finish_reason)


def _streamed(
    pieces: Generator[str, None, Completion], hits: list[MemoryHit], searched: float
) -> Generator[str, None, Answer]:
    completion = yield from pieces
    return _answer(completion, hits, searched)
