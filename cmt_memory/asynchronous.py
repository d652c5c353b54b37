"""The async twins of a store's methods: each runs on a worker thread and never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, Unpack

from cmt_memory.bank.verification import VerifyReport
from cmt_memory.documents import Answer, Document, MemoryHit, Question

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from cmt_memory.bank.records import Vector
    from cmt_memory.calibrating import LabelledQuestion
    from cmt_memory.confidence import Calibration
    from cmt_memory.ingestion import OnProgress
    from cmt_memory.model.modeling import CMTModel

T = TypeVar("T")


class AskSettings(TypedDict, total=False):
    """The keyword arguments of `ask` and `stream`; see there."""

    k: int
    mode: Literal["memory", "text", "none"]
    filter: dict[str, Any] | None
    min_score: float | None
    memory_ids: Sequence[str] | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str] | str | None
    alpha: float
    tools: list[Any] | None
    lead: str
    fallback: float | None


class _Synchronous(Protocol):
    """What the twins are twins of; read-only, as methods are."""

    @property
    def add_documents(self) -> Callable[..., list[str]]: ...
    @property
    def update(self) -> Callable[..., None]: ...
    @property
    def delete(self) -> Callable[..., None]: ...
    @property
    def get(self) -> Callable[..., list[Document]]: ...
    @property
    def document_ids(self) -> Callable[..., list[str]]: ...
    @property
    def passages(self) -> Callable[..., list[MemoryHit]]: ...
    @property
    def search(self) -> Callable[..., list[MemoryHit]]: ...
    @property
    def documents(self) -> Callable[..., list[Document]]: ...
    @property
    def embed(self) -> Callable[..., Vector]: ...
    @property
    def vectors(self) -> Callable[..., Vector]: ...
    @property
    def versions(self) -> Callable[..., list[str | None]]: ...
    @property
    def changes(self) -> Callable[[], int]: ...
    @property
    def calibrate(self) -> Callable[..., Calibration]: ...
    @property
    def stream(self) -> Callable[..., Generator[str, None, Answer]]: ...
    @property
    def stats(self) -> Callable[[], dict[str, Any]]: ...
    @property
    def verify(self) -> Callable[[], VerifyReport]: ...
    @property
    def compact(self) -> Callable[[], None]: ...
    @property
    def recompress(self) -> Callable[..., None]: ...
    @property
    def compress_pending(self) -> Callable[..., None]: ...
    @property
    def close(self) -> Callable[[], None]: ...


class Stopped(BaseException):
    """Ends work on a worker thread whose caller was cancelled; never reaches the caller."""


class AsyncTwins:
    """`a` + name for every method of a store, with the same arguments, results and errors.

    A call that is cancelled ends its work where the store is whole, after the commit or token it is at, before the
    cancellation goes on. `on_progress` is called on the worker thread.
    """

    async def aadd_documents(
        self: _Synchronous,
        documents: Any,
        *,
        metadatas: Sequence[dict[str, Any] | None] | None = None,
        ids: Sequence[str | None] | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        ttl: float | None = None,
    ) -> list[str]:
        """See `add_documents`; cancelled, it keeps what was committed."""
        add = partial(self.add_documents, documents, metadatas=metadatas, ids=ids, show_progress=show_progress, ttl=ttl)
        return await _reporting(add, on_progress)

    async def aupdate(
        self: _Synchronous,
        id: str,
        *,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        ttl: float | Literal["keep"] | None = "keep",
    ) -> None:
        """See `update`."""
        await on_thread(partial(self.update, id, text=text, metadata=metadata, ttl=ttl))

    async def adelete(self: _Synchronous, ids: str | Sequence[str], *, missing_ok: bool = False) -> None:
        """See `delete`."""
        await on_thread(partial(self.delete, ids, missing_ok=missing_ok))

    async def aget(self: _Synchronous, ids: str | Sequence[str]) -> list[Document]:
        """See `get`."""
        return await on_thread(partial(self.get, ids))

    async def asearch(
        self: _Synchronous,
        question: str | None,
        k: int = 4,
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        *,
        vector: ArrayLike | None = None,
        channels: Sequence[str] | Mapping[str, float] | None = None,
    ) -> list[MemoryHit]:
        """See `search`."""
        return await on_thread(partial(self.search, question, k, filter, min_score, vector=vector, channels=channels))

    async def adocuments(
        self: _Synchronous, filter: dict[str, Any] | None = None, *, limit: int | None = None, offset: int = 0
    ) -> list[Document]:
        """See `documents`."""
        return await on_thread(partial(self.documents, filter, limit=limit, offset=offset))

    async def apassages(self: _Synchronous, ids: str | Sequence[str]) -> list[MemoryHit]:
        """See `passages`."""
        return await on_thread(partial(self.passages, ids))

    async def avectors(self: _Synchronous, passages: str | Sequence[str]) -> Vector:
        """See `vectors`."""
        return await on_thread(partial(self.vectors, passages))

    async def aembed(self: _Synchronous, questions: str | Sequence[str]) -> Vector:
        """See `embed`."""
        return await on_thread(partial(self.embed, questions))

    async def adocument_ids(
        self: _Synchronous, filter: dict[str, Any] | None = None, *, limit: int | None = None, offset: int = 0
    ) -> list[str]:
        """See `document_ids`."""
        return await on_thread(partial(self.document_ids, filter, limit=limit, offset=offset))

    async def aversions(self: _Synchronous, ids: str | Sequence[str]) -> list[str | None]:
        """See `versions`."""
        return await on_thread(partial(self.versions, ids))

    async def achanges(self: _Synchronous) -> int:
        """See `changes`."""
        return await on_thread(self.changes)

    async def aask(self: _Synchronous, question: Question, **settings: Unpack[AskSettings]) -> Answer:
        """See `ask`; cancelled, the LM stops after the token it is at.

        Examples:
            >>> import asyncio
            >>> from cmt_memory import CMTMemoryStore
            >>> async def hits() -> int:
            ...     async with CMTMemoryStore("mem", model="cmt-tiny", encoder=None) as store:
            ...         await store.aadd_documents(["Mara's locker code is 4471."])
            ...         return len((await store.aask("What is Mara's locker code?")).hits)
            >>> asyncio.run(hits())
            1
        """
        return await result_on_thread(partial(self.stream, question, **settings))

    async def astream(
        self: _Synchronous, question: Question, **settings: Unpack[AskSettings]
    ) -> AsyncGenerator[str, None]:
        """See `stream`; closed early, the LM stops after the token it is at."""
        async with aclosing(pieces_on_threads(partial(self.stream, question, **settings))) as pieces:
            async for piece in pieces:
                yield piece

    async def acalibrate(
        self: _Synchronous,
        questions: Sequence[LabelledQuestion],
        *,
        k: int = 4,
        max_new_tokens: int = 64,
        budget: float = 0.2,
        show_progress: bool = False,
    ) -> Calibration:
        """See `calibrate`; cancelled, it goes on to its end."""
        settings: dict[str, Any] = {"k": k, "max_new_tokens": max_new_tokens, "budget": budget}
        return await on_thread(partial(self.calibrate, questions, **settings, show_progress=show_progress))

    async def astats(self: _Synchronous) -> dict[str, Any]:
        """See `stats`."""
        return await on_thread(self.stats)

    async def averify(self: _Synchronous) -> VerifyReport:
        """See `verify`."""
        return await on_thread(self.verify)

    async def acompact(self: _Synchronous) -> None:
        """See `compact`."""
        await on_thread(self.compact)

    async def arecompress(
        self: _Synchronous,
        model: str | CMTModel | None = None,
        *,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """See `recompress`; cancelled, it can be called again to go on."""
        await _reporting(partial(self.recompress, model, show_progress=show_progress), on_progress)

    async def acompress_pending(
        self: _Synchronous, *, show_progress: bool = False, on_progress: OnProgress | None = None
    ) -> None:
        """See `compress_pending`; cancelled, it can be called again to go on."""
        await _reporting(partial(self.compress_pending, show_progress=show_progress), on_progress)

    async def aclose(self: _Synchronous) -> None:
        """See `close`."""
        await on_thread(self.close)

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(
        self: _Synchronous, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await on_thread(self.close)


S = TypeVar("S", bound=AsyncTwins)


async def on_thread(work: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
    """Run work on a worker thread and wait for its end, even where the caller is cancelled.

    Args:
        work: what to do.
        stop: called when the caller is cancelled, to end the work early.
    """
    future = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


async def result_on_thread(start: Callable[[], Generator[Any, None, T]]) -> T:
    """What a generator returns at its end, which is run to on a worker thread; cancelled, it ends after its next piece.

    Args:
        start: makes the generator; called on the thread.
    """
    stop = threading.Event()

    def work() -> T:
        pieces = start()
        try:
            while not stop.is_set():
                next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            pieces.close()
        raise Stopped

    return await on_thread(work, stop.set)


async def pieces_on_threads(start: Callable[[], Generator[T, None, Any]]) -> AsyncGenerator[T, None]:
    """A generator's pieces, each made on a worker thread; closed early, the generator is closed too.

    Args:
        start: makes the generator, of pieces that are not None; called on a thread.
    """
    pieces = await on_thread(start)
    try:
        while (piece := await on_thread(partial(next, pieces, None))) is not None:
            yield piece
    finally:
        await on_thread(pieces.close)


async def _reporting(work: Callable[..., T], on_progress: OnProgress | None) -> T:
    """Run work that takes `on_progress`; cancelled, it ends after the commit it is at."""
    stop = threading.Event()

    def report(ids: list[str]) -> None:
        if on_progress is not None:
            on_progress(ids)
        if stop.is_set():
            raise Stopped

    return await on_thread(partial(work, on_progress=report), stop.set)
