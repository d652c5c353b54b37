"""A generator's pieces on worker threads, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def on_thread(work: Callable[[], T]) -> T:
    """Run work on a worker thread; a cancellation waits for its end, so that nothing runs on unseen."""
    future = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        raise


async def pieces_on_threads(start: Callable[[], Generator[T, None, R]]) -> AsyncGenerator[T, None]:
    """The pieces of a generator; closed early, it is closed too."""
    pieces = await on_thread(start)
    try:
        while (piece := await on_thread(lambda: next(pieces, None))) is not None:
            yield piece
    finally:
        await on_thread(pieces.close)


async def result_on_thread(start: Callable[[], Generator[T, None, R]]) -> R:
    """A generator's return value; cancelled, it is closed after the piece it is at."""
    stop = threading.Event()

    def work() -> R | None:
        pieces = start()
        try:
            while not stop.is_set():
                next(pieces)
        except StopIteration as end:
            result: R = end.value
            return result
        finally:
            pieces.close()
        return None

    future = asyncio.ensure_future(on_thread(work))
    try:
        found = await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        raise
    assert found is not None
    return found
