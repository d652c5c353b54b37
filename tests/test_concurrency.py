"""One store, many users: threads, forked children, other processes, and several processes through a Chroma server."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

if "forkserver" not in multiprocessing.get_all_start_methods():
    pytest.skip("the other processes are forked", allow_module_level=True)

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.errors import (
    CMTError,
    FingerprintMismatchError,
    InvalidInputError,
    StoreClosedError,
    StoreLockedError,
)
from tests.bank.helpers import lexicon_is_sound
from tests.kills.worker import MODEL, MODELS, DigestEncoder, document

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.kills.worker"])


def open_store(path: Path, **arguments: Any) -> CMTMemoryStore:
    settings = {"model": MODEL, "encoder": DigestEncoder(), "passage_tokens": 220, "passage_overlap": 8}
    return CMTMemoryStore(path, **(settings | arguments))


def check(store: CMTMemoryStore, expected: dict[str, int]) -> None:
    assert sorted(store.bank.ids()) == sorted(expected)
    for id, version in expected.items():
        assert store.get(id) == [document(id, version)]
        for row in store.bank.passages_by_id(store.bank.passage_ids([id])):
            assert store.search(row.text, k=1)[0].text == row.text
        store.memories.load_memories(store.bank.passage_ids([id]))
    with lexicon_is_sound(store.bank):
        pass


def run(target: Callable[..., None], *arguments: Any) -> Any:
    """What a process of its own sends back."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=target, args=(*arguments, sender), daemon=True)
    process.start()
    sender.close()
    try:
        assert receiver.poll(120)
        return receiver.recv()
    finally:
        process.join(10)


def try_to_open(path: Path, read_only: bool, pipe: Any) -> None:
    try:
        with open_store(path, read_only=read_only) as store:
            pipe.send((len(store), store.ask("Line 0 of a?", max_new_tokens=2).grounded))
    except CMTError as error:
        pipe.send((type(error).__name__, str(error)))


def test_a_second_process_reads_or_is_told_why_not(tmp_path: Path):
    with open_store(tmp_path) as store:
        store.add_documents([document("a", 0), document("b", 0)])
        name, message = run(try_to_open, tmp_path, False)
        assert name == "StoreLockedError"
        assert "read_only=True" in message
        assert "client=chromadb.HttpClient" in message
        assert run(try_to_open, tmp_path, True) == (2, True)
    assert run(try_to_open, tmp_path, False) == (2, True)


def test_eight_threads_add_ask_and_delete(tmp_path: Path):
    failures: list[BaseException] = []
    expected: dict[str, int] = {}

    def work(number: int, store: CMTMemoryStore) -> None:
        chance, mine = random.Random(number), dict[str, int]()
        try:
            for step in range(5):
                new = {f"t{number}-{step}-{n}": 0 for n in range(chance.randint(1, 3))}
                changed = {id: version + 1 for id, version in mine.items() if chance.random() < 0.3}
                store.add_documents([document(*item) for item in (new | changed).items()])
                mine |= new | changed
                for id in chance.sample(sorted(mine), 2) if len(mine) > 1 else mine:
                    text = store.bank.passages_by_id([f"{id}#0"])[0].text
                    assert store.search(text, k=1)[0].id == id
                assert store.ask(f"Line 0 of {id}?", k=3, max_new_tokens=1).grounded
                if chance.random() < 0.5:
                    gone = chance.choice(sorted(mine))
                    store.delete(gone)
                    del mine[gone]
                    assert gone not in {hit.id for hit in store.search(f"Line 0 of {gone}", k=9)}
            expected.update(mine)
        except BaseException as error:
            failures.append(error)

    with open_store(tmp_path) as store:
        threads = [threading.Thread(target=work, args=(number, store)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        check(store, expected)
    with open_store(tmp_path) as store:
        check(store, expected)


def test_many_delete_the_same(tmp_path: Path):
    """Exactly one of them did it; the others are told that there is none."""
    with open_store(tmp_path) as store:
        ids = store.add_documents([document(f"d{n}", 0) for n in range(6)])
        results: list[str] = []
        start = threading.Barrier(8)

        def delete() -> None:
            for id in ids:
                start.wait()
                try:
                    store.delete(id)
                    results.append("deleted")
                except InvalidInputError as error:
                    results.append(str(error))

        threads = [threading.Thread(target=delete) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count("deleted") == len(ids)
        assert len(results) == 8 * len(ids)
        assert len(store) == 0


@pytest.mark.parametrize("meanwhile", ["delete", "update"])
def test_a_change_during_an_update_is_not_lost(tmp_path: Path, meanwhile: str, monkeypatch: pytest.MonkeyPatch):
    """While the LM reads the new text, the document is deleted; while it waits for its turn, changed."""
    with open_store(tmp_path) as store:
        store.add_documents([document("a", 0)])
        reached, go = threading.Event(), threading.Event()
        encode, errors = store._ingestion.encode, list[str]()

        def slow(texts: Any) -> list[bytes]:
            reached.set()
            assert go.wait(60)
            return encode(texts)

        def update(**change: Any) -> None:
            try:
                store.update("a", **change)
            except InvalidInputError as error:
                errors.append(str(error))

        monkeypatch.setattr(store._ingestion, "encode", slow)
        if meanwhile == "delete":
            threads = [threading.Thread(target=update, kwargs={"text": "new text"})]
            threads[0].start()
            assert reached.wait(60)
            store.delete("a")
        else:  # both wait for an add; the first in the queue changes the metadata
            changes: list[dict[str, Any]] = [{"metadata": {"mine": 1}}, {"text": "new text"}]
            threads = [threading.Thread(target=store.add_documents, args=([document("b", 0)],))]
            threads += [threading.Thread(target=update, kwargs=change) for change in changes]
            for thread in threads:
                thread.start()
                assert reached.wait(60)
                time.sleep(0.2)
        go.set()
        for thread in threads:
            thread.join(60)
        if meanwhile == "delete":
            assert len(errors) == 1
            assert "'a'" in errors[0]
            assert store.get("a") == []
        else:
            assert not errors
            assert [(found.text, found.metadata) for found in store.get("a")] == [("new text", {"mine": 1})]


def test_searches_during_rebuilds_are_whole(tmp_path: Path):
    failures: list[BaseException] = []
    with open_store(tmp_path) as store:
        store.add_documents([document(f"d{n}", 0) for n in range(60)])
        bank, encoder = store.bank, DigestEncoder()
        texts = [bank.passages_by_id([f"d{n}#0"])[0].text for n in range(60)]
        vectors = [np.asarray(encoder.embed_query(text), np.float32) for text in texts]
        done = threading.Event()

        def search(number: int) -> None:
            chance = random.Random(number)
            try:
                while not done.is_set():
                    place = chance.randrange(60)
                    ((key, _),) = bank.search_vectors(vectors[place], 1)
                    assert bank.passages([key])[key].text == texts[place]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        assert bank._index is not None
        for _ in range(4):
            bank._index.rebuild("the test asked for it")
        done.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def test_closing_under_working_threads(tmp_path: Path):
    store = open_store(tmp_path)
    store.add_documents([document("a", 0)])
    errors: list[BaseException] = []
    acknowledged: list[str] = []

    def work(number: int) -> None:
        try:
            for step in range(10_000):
                acknowledged.extend(store.add_documents([document(f"{number}-{step}", 0)]))
                store.search("Line 0", k=2)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    store.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [type(error) for error in errors] == [StoreClosedError] * 4, errors
    with open_store(tmp_path) as store:
        assert set(acknowledged) <= set(store.bank.ids())
        check(store, dict.fromkeys(store.bank.ids(), 0))


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path):
    """Chroma would hang there; and the child that lives on does not keep the folder locked."""
    store = open_store(tmp_path)
    store.add_documents([document("a", 0)])
    store._add_lock.acquire()  # as if another thread was adding at the fork
    store._recompress_lock.acquire()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        told = []
        for use in (
            lambda: store.add_documents(["new"]),
            lambda: store.search("Line 0"),
            lambda: store.bank.search_vectors(DigestEncoder().embed_query("x"), 1),  # type: ignore[arg-type]
            lambda: store.ask("Line 0?"),
            lambda: store.get("a"),
            lambda: store.delete("a"),
            lambda: len(store),
            lambda: store.update("a", text="new"),
            store.stats,
            store.verify,
            store.compact,
            store.recompress,
            store.compress_pending,
        ):
            try:
                use()
            except StoreClosedError as error:
                told.append("forked" in str(error))
        store.close()
        os.write(writing, bytes(told))
        time.sleep(60)
        os._exit(0)
    os.close(writing)
    timer = threading.Timer(30, os.kill, (child, signal.SIGKILL))
    timer.start()
    try:
        assert os.read(reading, 100) == bytes([True] * 13)
        store._add_lock.release()
        store._recompress_lock.release()
        store.add_documents([document("b", 0)])
        store.close()
        with open_store(tmp_path) as again:
            check(again, {"a": 0, "b": 0})
    finally:
        timer.cancel()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# -- several processes through a server ------------------------------------------------------------------------


@contextmanager
def chroma_run(folder: Path, port: int) -> Iterator[None]:
    """A `chroma run` bound to loopback."""
    command = Path(sysconfig.get_path("scripts")) / "chroma"
    arguments = ["run", "--host", "127.0.0.1", "--port", str(port), "--path", str(folder)]
    process = subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with chroma_run(tmp_path_factory.mktemp("server"), port):
        yield port


def connect(port: int) -> Any:
    return chromadb.HttpClient("127.0.0.1", port, settings=chromadb.Settings(anonymized_telemetry=False))


def work_beside_others(path: Path, port: int, number: int, go: Any, pipe: Any) -> None:
    chance, mine = random.Random(number), dict[str, int]()
    try:
        go.wait(60)
        with open_store(path, client=connect(port)) as store:
            for step in range(6):
                new = {f"p{number}-{step}-{n}": 0 for n in range(chance.randint(1, 3))}
                store.add_documents([document(*item) for item in new.items()])
                mine |= new
                for id in new:
                    text = store.bank.passages_by_id([f"{id}#0"])[0].text
                    assert store.search(text, k=1)[0].id == id
                if chance.random() < 0.5:
                    gone = chance.choice(sorted(mine))
                    store.delete(gone)
                    del mine[gone]
        pipe.send(mine)
    except BaseException as error:
        pipe.send(repr(error))


def test_several_processes_through_a_server(tmp_path: Path, server: int):
    go = processes.Barrier(3)
    pipes = [processes.Pipe(duplex=False) for _ in range(3)]
    started = [
        processes.Process(target=work_beside_others, args=(tmp_path, server, n, go, pipe[1]), daemon=True)
        for n, pipe in enumerate(pipes)
    ]
    for process in started:
        process.start()
    expected: dict[str, int] = {}
    for receiver, _ in pipes:
        assert receiver.poll(120)
        found = receiver.recv()
        assert isinstance(found, dict), found
        expected |= found
    for process in started:
        process.join(10)
    with open_store(tmp_path, client=connect(server)) as store:
        check(store, expected)
        assert store.bank._index is not None
        assert store.bank._index._index.count() == store.bank.count_passages()


def test_an_embedded_index_and_a_server_exclude_each_other(tmp_path: Path, server: int):
    with open_store(tmp_path, client=connect(server)) as one:
        one.add_documents([document("a", 0)])
        with open_store(tmp_path, client=connect(server)) as two:
            check(two, {"a": 0})
        with pytest.raises(StoreLockedError):
            open_store(tmp_path)
    with open_store(tmp_path) as alone:
        check(alone, {"a": 0})
        with pytest.raises(StoreLockedError):
            open_store(tmp_path, client=connect(server))


def test_a_server_that_was_not_kept_up_is_not_believed(tmp_path: Path, server: int):
    """Equally many entries, of which one is another: counting would not find it."""
    one, other = (Document(f"Note {name} is short.", {}, name) for name in "ab")
    with open_store(tmp_path, client=connect(server)) as store:
        store.add_documents([one])
    with open_store(tmp_path) as store:
        store.delete("a")
        store.add_documents([other])
    with open_store(tmp_path, client=connect(server)) as store:
        vector = np.asarray(DigestEncoder().embed_query(other.text), np.float32)
        ((key, cosine),) = store.bank.search_vectors(vector, 1)
        assert store.bank.passages([key])[key].document == "b"
        assert cosine == pytest.approx(1, abs=1e-5)
        assert store.verify().ok


def test_compact_with_a_server_clears_the_index_of_before(tmp_path: Path, server: int):
    with open_store(tmp_path) as store:
        store.add_documents([Document("Some text.", {"name": "xyzzy-gone"}, "a"), document("b", 0)])
    with open_store(tmp_path, client=connect(server)) as store:
        store.delete("a")
        store.compact()
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"xyzzy-gone" in path.read_bytes()]
        check(store, {"b": 0})
    with open_store(tmp_path) as store:
        check(store, {"b": 0})


def test_one_encoder_for_all_who_share(tmp_path: Path, server: int):
    class Other(DigestEncoder):
        model_name = "other"

    with open_store(tmp_path, client=connect(server)) as one:
        with pytest.raises(StoreLockedError, match="another encoder"):
            open_store(tmp_path, client=connect(server), encoder=Other())
        one.add_documents([document("a", 0)])
        with pytest.raises(StoreLockedError, match="another encoder"):
            open_store(tmp_path, client=connect(server), encoder=Other())
        check(one, {"a": 0})
    with open_store(tmp_path, client=connect(server), encoder=Other()) as two:
        check(two, {"a": 0})


@pytest.mark.parametrize("dims", [16, 8])
def test_a_reader_is_told_of_another_encoder(tmp_path: Path, dims: int):
    class Other(DigestEncoder):
        model_name = "other"

        def embed_query(self, text: str) -> list[float]:
            return super().embed_query(text + "!")[:dims]

    with open_store(tmp_path) as store:
        store.add_documents([document("a", 0), document("b", 0)])
    with open_store(tmp_path, read_only=True) as reader, open_store(tmp_path, encoder=Other()) as store:
        check(store, {"a": 0, "b": 0})
        with pytest.raises(FingerprintMismatchError, match="made anew by the encoder"):
            reader.search("Line 0 of a")
    with open_store(tmp_path, read_only=True, encoder=Other()) as reader:
        assert reader.search("Line 0 of a")


def test_a_server_that_lost_everything(tmp_path: Path, server: int, caplog: pytest.LogCaptureFixture):
    """While others share the folder nobody may rebuild: searches are exact until somebody has it alone."""
    client = connect(server)
    with open_store(tmp_path, client=client) as one, open_store(tmp_path, client=client) as two:
        one.add_documents([document("a", 0), document("b", 0)])
        client.delete_collection(one.bank.meta("collection"))
        check(one, {"a": 0, "b": 0})
        assert "searching without the index for now" in caplog.text
        check(two, {"a": 0, "b": 0})
        with open_store(tmp_path, client=client) as three:
            check(three, {"a": 0, "b": 0})
    with open_store(tmp_path, client=client) as one:
        check(one, {"a": 0, "b": 0})
        assert one.bank._index is not None
        assert one.bank._index._index.count() == one.bank.count_passages()


def test_a_server_that_is_gone(tmp_path: Path):
    """What is added is in the ledger and found; the index follows when the server is back."""
    port = free_port()
    with ExitStack() as stack:
        with chroma_run(tmp_path / "server", port):
            store = stack.enter_context(open_store(tmp_path / "store", client=connect(port)))
            store.add_documents([document("a", 0)])
        with pytest.raises(CMTError, match="cannot be reached"):
            store.add_documents([document("b", 0)])
        check(store, {"a": 0, "b": 0})
        [problem] = store.verify().problems
        assert problem.kind == "index"
        assert "cannot be reached" in problem.message
        stack.enter_context(chroma_run(tmp_path / "server", port))
        store.add_documents([document("c", 0)])
        check(store, {"a": 0, "b": 0, "c": 0})
        assert store.bank._index is not None
        assert store.bank._index._index.count() == store.bank.count_passages()


def test_time_to_live_and_compact_through_a_server(tmp_path: Path, server: int):
    now = [0.0]
    client, clock = connect(server), lambda: now[0]
    trace = document("a", 0).text.encode()
    with open_store(tmp_path, client=client, clock=clock) as one:
        with open_store(tmp_path, client=client, clock=clock) as two:
            one.add_documents([document("a", 0)], ttl=5)
            two.add_documents([document("b", 0)])
            check(two, {"a": 0, "b": 0})
            now[0] = 6.0
            check(one, {"b": 0})
            check(two, {"b": 0})
            two.add_documents([document("c", 0)])
            assert one.bank._index is not None
            assert one.bank._index._index.count() == one.bank.count_passages()
            with pytest.raises(StoreLockedError, match="close its other users"):
                one.compact()
        one.compact()
        assert one.verify().ok
        check(one, {"b": 0, "c": 0})
        assert not any(trace in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_recompress_through_a_server(tmp_path: Path, server: int):
    """Not under others with the model of before; what was made until then is made."""
    client, passes = connect(server), []
    with open_store(tmp_path, client=client) as one:
        one.add_documents([document("a", 0), document("b", 0)])
        with open_store(tmp_path, client=client) as two:
            with pytest.raises(StoreLockedError, match="call recompress again"):
                one.recompress(MODELS[1])
            check(one, {"a": 0, "b": 0})
            check(two, {"a": 0, "b": 0})
        hook = MODELS[1].lm.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
        one.recompress(MODELS[1])
        hook.remove()
        assert not passes
        check(one, {"a": 0, "b": 0})
        with open_store(tmp_path, client=client, model=MODELS[1]) as two:
            check(two, {"a": 0, "b": 0})
