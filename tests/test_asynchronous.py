"""The async twins: the same results, a free event loop, and a whole store after a cancellation."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time

import pytest

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.errors import InvalidInputError, StoreClosedError
from tests.tiny import DOCUMENTS, QUESTION, tiny_model

LONG = 120


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model) as opened:
        yield opened


@pytest.fixture
def passes(model):
    seen = []
    hook = model.lm.decoder.register_forward_pre_hook(lambda *_: seen.append(threading.current_thread()))
    yield seen
    hook.remove()


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "cmt-memory-stream"]


def test_every_method_has_a_twin_with_the_same_arguments(store):
    methods = {name for name, _ in inspect.getmembers(CMTMemoryStore, inspect.isfunction) if not name.startswith("_")}
    plain = {name for name in methods if "a" + name in methods}
    adapters = {name for name in methods if name.startswith("as_")}  # they only wrap the store
    assert {name for name in methods - adapters if name not in plain and name[1:] not in plain} == set()
    for name in plain - {"ask", "stream"}:
        ours, twin = (inspect.signature(getattr(CMTMemoryStore, n)).parameters for n in (name, f"a{name}"))
        assert list(ours) == list(twin), name
        assert [p.default for p in ours.values()] == [p.default for p in twin.values()], name
    from cmt_memory.asynchronous import AskSettings

    assert set(AskSettings.__annotations__) == set(inspect.signature(store.ask).parameters) - {"question"}


def test_the_same_results_on_another_thread(model, tmp_path, passes):
    async def use():
        async with CMTMemoryStore(tmp_path / "s", model, lazy=True) as store:
            seen = []
            ids = await store.aadd_documents(DOCUMENTS, metadatas=[{"n": n} for n in range(3)], on_progress=seen.extend)
            assert sorted(seen) == sorted(ids)
            assert await store.aget(ids) == store.get(ids)
            assert await store.asearch(QUESTION, 2, {"n": {"$gt": 0}}) == store.search(QUESTION, 2, {"n": {"$gt": 0}})
            await store.acompress_pending()
            assert (await store.astats())["waiting"] == 0
            answer, expected = await store.aask(QUESTION, max_new_tokens=8), store.ask(QUESTION, max_new_tokens=8)
            assert (answer.text, answer.hits, answer.usage) == (expected.text, expected.hits, expected.usage)
            assert answer.timings.keys() == expected.timings.keys()
            pieces = [piece async for piece in store.astream(QUESTION, max_new_tokens=8)]
            assert pieces == list(store.stream(QUESTION, max_new_tokens=8))
            await store.aupdate(ids[0], metadata={"n": 9})
            assert store.get(ids[0])[0].metadata == {"n": 9}
            await store.adelete(ids[2])
            assert len(store) == 2
            assert (await store.averify()).ok
            await store.acompact()
            await store.arecompress(tiny_model("llama", "chat", ratio=8, latent=16))
            assert store.stats()["ratio"] == 8
            with pytest.raises(InvalidInputError, match="k is 0"):
                await store.aask(QUESTION, k=0)
            with pytest.raises(InvalidInputError, match="empty"):
                await store.aadd_documents([""])
            return store

    store = asyncio.run(use())
    with pytest.raises(StoreClosedError):
        len(store)


def test_the_loop_is_free_while_the_lm_works(store):
    """While documents are read and answers written, the loop keeps ticking."""
    store.add_documents(DOCUMENTS)

    async def longest_pause(work):
        longest, done = 0.0, asyncio.create_task(work)
        while not done.done():
            started = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - started)
        await done
        return longest

    async def measure():
        started = time.monotonic()
        pause = await longest_pause(store.aask(QUESTION, max_new_tokens=LONG))
        return pause, time.monotonic() - started

    pause, whole = asyncio.run(measure())
    assert pause < whole / 3


def test_a_cancelled_add_keeps_whole_commits(store, model):
    store._ingestion.commit_tokens = 1
    texts = [Document(f"Room {n} has the code {1000 + n}.", id=f"r{n}") for n in range(60)]
    seen = []

    async def use():
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def progress(ids):
            seen.extend(ids)
            loop.call_soon_threadsafe(started.set)

        task = asyncio.create_task(store.aadd_documents(texts, on_progress=progress))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = len(store)
        await asyncio.sleep(0.2)
        assert len(store) == kept  # nothing goes on behind the caller's back
        return kept

    kept = asyncio.run(use())
    assert 0 < kept == len(seen) < 60
    assert store.verify().ok
    store.add_documents(texts)
    assert len(store) == 60


@pytest.mark.parametrize("way", ["close", "break", "cancel", "cancel aask"])
def test_an_answer_that_is_not_wanted_any_more_stops_the_lm(store, passes, way):
    store.add_documents(DOCUMENTS)
    passes.clear()

    async def use():
        if way == "cancel aask":
            task = asyncio.create_task(store.aask(QUESTION, max_new_tokens=LONG))
            while len(passes) < 2:
                await asyncio.sleep(0.001)
        elif way == "cancel":
            begun = asyncio.Event()

            async def read():
                async for _ in store.astream(QUESTION, max_new_tokens=LONG):
                    begun.set()

            task = asyncio.create_task(read())
            await begun.wait()
        else:
            pieces = store.astream(QUESTION, max_new_tokens=LONG)
            if way == "close":
                await anext(pieces)
            else:
                async for _ in pieces:
                    break
            await pieces.aclose()
            return
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    assert workers() == []
    stopped = len(passes)
    assert stopped < LONG
    time.sleep(0.1)
    assert len(passes) == stopped
    assert store.ask(QUESTION, max_new_tokens=2).grounded


def test_many_at_once(store):
    async def use():
        ids = await asyncio.gather(*(store.aadd_documents([text]) for text in DOCUMENTS))
        answers = await asyncio.gather(*(store.aask(QUESTION, k=1, max_new_tokens=6) for _ in range(6)))
        return ids, answers

    ids, answers = asyncio.run(use())
    assert len(store) == len(ids) == 3
    assert {answer.text for answer in answers} == {store.ask(QUESTION, k=1, max_new_tokens=6).text}
