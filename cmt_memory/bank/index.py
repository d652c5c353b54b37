"""The Chroma index: key, vector and filterable metadata of every passage, rebuilt from the ledger when in doubt."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cmt_memory.bank import footprint
from cmt_memory.bank.filters import index_metadata
from cmt_memory.bank.footprint import Footprint
from cmt_memory.bank.records import Vector
from cmt_memory.bank.vacancy import blank_vacant_places
from cmt_memory.errors import CMTError, StoreClosedError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

_SPACE: Literal["cosine"] = "cosine"
_EF_SEARCH = 400
"""Candidates that a search keeps; Chroma's own 100 finds 96 of the 100 nearest among 100,000."""
_PART = 131_072
"""Keys of a collection. One graph over a million finds 93 of the 100 nearest, takes three times as long to make, and is
written to disk whole with every thousand additions."""
_LISTED = 1_000
_NO_ROOM = ("disk is full", "no space left", "file too large", "quota exceeded")
_LITTLE_ROOM = 256 * 1024


class IndexBrokenError(CMTError):
    """The index cannot be used as it is; it has to be rebuilt from the ledger.

    Args:
        message: What failed.
        no_room: The disk is full, which no rebuild would change.
    """

    def __init__(self, message: str, no_room: bool = False) -> None:
        super().__init__(message)
        self.no_room = no_room


class VectorIndex:
    """Chroma collections of explicit vectors with cosine distance, each for a range of keys.

    Chroma is imported and opened at the first use. An entry's id is the passage's key, which never comes to
    mean another passage, so an entry is written once and never changed: Chroma would merge the old metadata
    into the new. Keys only grow, so all parts but the last are written no more, except for what is deleted.

    Args:
        folder: Folder of the embedded index; not used with ``client``.
        name: Name of the first collection; that of another has its number behind it.
        client: A Chroma client, e.g. ``chromadb.HttpClient(...)``, in place of an embedded index.

    Attributes:
        embedded: Whether the index is this process's own.
        part: How many keys share a collection.
    """

    def __init__(self, folder: Path, name: str, client: ClientAPI | None = None) -> None:
        self._folder, self._name, self._client = folder, name, client
        self.embedded, self.part = client is None, _PART
        self._closed = False
        self._lock = threading.Condition()
        self._busy = 0
        self._paused = False
        self._collections: dict[int, Collection] = {}

    def count(self) -> int:
        """Number of entries.

        Raises:
            IndexBrokenError: Chroma cannot tell.
        """
        return sum(self.counts().values())

    def counts(self) -> dict[int, int]:
        """Number of entries of each part that has any.

        Raises:
            IndexBrokenError: Chroma cannot tell.
        """
        found = {part: int(self._call(part, "count")) for part in self._parts()}
        return {part: count for part, count in found.items() if count}

    def upsert(self, keys: Sequence[int], vectors: Vector, metadatas: Sequence[Mapping[str, Any]]) -> None:
        """Write entries.

        Args:
            keys: Passage keys, each once.
            vectors: ``[n, dims]`` float32.
            metadatas: The documents' metadata; what Chroma cannot hold stays in the ledger.

        Raises:
            IndexBrokenError: Chroma failed.
        """
        for part, places in self._batches(keys):
            self._call(
                part,
                "upsert",
                ids=[str(keys[place]) for place in places],
                embeddings=vectors[places],
                metadatas=[index_metadata(metadatas[place]) for place in places],
            )

    def delete(self, keys: Sequence[int]) -> None:
        """Delete entries; those that are not there are passed over.

        Raises:
            IndexBrokenError: Chroma failed.
        """
        for part, places in self._batches(keys):
            self._call(part, "delete", ids=[str(keys[place]) for place in places])

    def query(
        self, vector: Vector, limit: int, where: dict[str, Any] | None = None, parts: Sequence[int] = (0,)
    ) -> list[tuple[int, float]]:
        """The nearest entries, nearest first, with their cosine.

        Args:
            vector: ``[dims]`` float32.
            limit: Most entries to return, at least 1.
            where: A Chroma filter.
            parts: The parts to search, side by side; see `part`.

        Raises:
            IndexBrokenError: Chroma failed.
        """

        def nearest(part: int) -> list[tuple[int, float]]:
            found = self._call(
                part, "query", query_embeddings=vector[None], n_results=limit, where=where, include=["distances"]
            )
            pairs = zip(found["ids"][0], found["distances"][0], strict=True)
            return [(int(key), 1.0 - float(distance)) for key, distance in pairs]

        if len(parts) < 2:
            return [pair for part in parts for pair in nearest(part)]
        workers = min(len(parts), os.cpu_count() or 1)
        try:
            with ThreadPoolExecutor(workers, thread_name_prefix="cmt-memory-part") as beside:
                pairs = [pair for found in beside.map(nearest, parts) for pair in found]
        except RuntimeError:  # no thread can be had, as when the interpreter is ending
            pairs = [pair for part in parts for pair in nearest(part)]
        return sorted(pairs, key=lambda pair: -pair[1])[:limit]

    def keys(self) -> list[int]:
        """The keys of all entries.

        Raises:
            IndexBrokenError: Chroma failed.
        """
        return [int(key) for part in self._parts() for key in self._call(part, "get", include=[])["ids"]]

    def vectors(self, keys: Sequence[int]) -> tuple[list[int], Vector]:
        """The keys that have an entry and their vectors ``[n, dims]``.

        Raises:
            IndexBrokenError: Chroma failed.
        """
        names, vectors = list[int](), list[Vector]()
        for part, places in self._batches(keys):
            found = self._call(part, "get", ids=[str(keys[place]) for place in places], include=["embeddings"])
            names += map(int, found["ids"])
            vectors += list(np.asarray(found["embeddings"], np.float32))
        return names, np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def reset(self) -> None:
        """Throw the collection away; of an embedded index the whole folder, which Chroma may not survive opening."""
        with self._alone():
            self._collections.clear()
            if self.embedded:
                self._let_go()
                try:
                    if self._folder.is_dir():
                        shutil.rmtree(self._folder)
                    else:
                        self._folder.unlink(missing_ok=True)
                except OSError as error:
                    raise CMTError(f"the index in {self._folder} cannot be deleted: {error}; delete it.") from error
                return
            from chromadb.errors import NotFoundError

            try:
                for part in self._listed():
                    with suppress(NotFoundError):
                        self._connect().delete_collection(self._called(part))
            except Exception as error:
                raise CMTError(f"the Chroma server could not drop {self._name!r}: {error}") from error

    def is_as_left(self, record: Mapping[str, Any]) -> bool:
        """Whether an embedded index's files look as `outline` or `seal` had found them."""
        return not self.embedded or footprint.is_as_left(self._folder, record)

    def is_sound(self, files: Footprint) -> bool:
        """Whether every byte of an embedded index's files, unless Chroma has them, is as `seal` found it."""
        return not self.embedded or self._client is not None or footprint.is_sound(self._folder, files)

    def dated(self, files: Footprint) -> Footprint:
        """What `seal` found of files that `is_as_left` took for the same, with the times they have now."""
        return footprint.dated(self._folder, files)

    def outline(self) -> Footprint:
        """What to note of an embedded index's files while it is in use."""
        return footprint.outline(self._folder) if self.embedded else {}

    def seal(self, earlier: Footprint) -> Footprint:
        """What to note of an embedded index's files once it is closed, knowing what was noted before."""
        return footprint.seal(self._folder, earlier) if self.embedded else {}

    def tidy(self) -> None:
        """Leave nothing in the files of an embedded index but its entries, where Chroma has opened it.

        Chroma may write all of a small index's files at the first call after an opening, so this belongs after one.

        Raises:
            CMTError: A file cannot be written.
        """
        if not self.embedded or self._client is None:
            return
        with self._alone():
            try:
                blank_vacant_places(self._folder)
            except OSError as error:
                raise CMTError(f"the index in {self._folder} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of an embedded index for good; a client that was given stays open."""
        with self._alone():
            self._closed = True
            self._collections.clear()
            opened = self.embedded and self._client is not None
            self._let_go()
            if opened:
                with suppress(OSError):  # a disk that cannot be written has been written nothing
                    blank_vacant_places(self._folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for the calls under way and keep others out: Chroma must not be closed under them."""
        with self._lock:
            self._paused = True
            try:
                self._lock.wait_for(lambda: not self._busy)
                yield
            finally:
                self._paused = False
                self._lock.notify_all()

    def _let_go(self) -> None:
        if self.embedded and self._client is not None:
            client, self._client = self._client, None
            client.close()  # type: ignore[attr-defined]  # an embedded client has it, the interface has not

    def _batches(self, keys: Sequence[int]) -> list[tuple[int, list[int]]]:
        """The parts that keys belong to, each with the places of as many of its keys as Chroma takes at once."""
        size, of_part = self._batch_size(), defaultdict[int, list[int]](list)
        for place, key in enumerate(keys):
            of_part[key // self.part].append(place)
        return [
            (part, places[start : start + size])
            for part, places in of_part.items()
            for start in range(0, len(places), size)
        ]

    def _called(self, part: int) -> str:
        return f"{self._name}.{part}" if part else self._name

    def _parts(self) -> list[int]:
        """The parts that Chroma has."""
        with self._lock:
            self._lock.wait_for(lambda: not self._paused)
            return list(self._guarded("list_collections", self._listed))

    def _listed(self) -> list[int]:
        found = list[int]()
        for offset in itertools.count(step=_LISTED):
            names = [collection.name for collection in self._connect().list_collections(_LISTED, offset)]
            for name in names:
                first, _, part = name.partition(".")
                if first == self._name and (not part or part.isdecimal()):
                    found.append(int(part or 0))
            if len(names) < _LISTED:
                break
        return sorted(found)

    def _call(self, part: int, method: str, **arguments: Any) -> Any:
        def call() -> Any:
            with self._lock:
                self._lock.wait_for(lambda: not self._paused)
                collection = self._collections.get(part)
                if collection is None:
                    collection = self._collections[part] = self._open(part)
                self._busy += 1
            try:
                return getattr(collection, method)(**arguments)
            finally:
                with self._lock:
                    self._busy -= 1
                    self._lock.notify_all()

        return self._guarded(method, call)

    def _batch_size(self) -> int:
        with self._lock:
            return int(self._guarded("get_max_batch_size", lambda: self._connect().get_max_batch_size()))

    def _guarded(self, name: str, call: Callable[[], Any]) -> Any:
        """Run a call of Chroma's and say in our own errors what failed."""
        from chromadb.errors import ChromaError

        try:
            return call()
        except CMTError:
            raise
        except BaseException as error:
            if not _is_failure(error):
                raise
            self._collections.clear()
            if self._closed:
                raise StoreClosedError("the store was closed; open it again to use it.") from error
            if self.embedded or isinstance(error, ChromaError):
                raise IndexBrokenError(f"Chroma: {name} failed: {error}", self._is_full(error)) from error
            raise CMTError(
                f"the index server cannot be reached: {error}. What was added is in the ledger and is indexed with "
                "the next write or at the next opening."
            ) from error

    def check_open(self) -> None:
        """Raise ``StoreClosedError`` where the index was closed: its files may be another's by now."""
        if self._closed:
            raise StoreClosedError("the store was closed; open it again to use it.")

    def _connect(self) -> ClientAPI:
        self.check_open()
        if self._client is None:
            import chromadb
            from chromadb.api.shared_system_client import SharedSystemClient
            from chromadb.config import Settings

            path = str(self._folder.absolute())
            try:
                self._client = chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))
            except BaseException as error:
                # Chroma keeps the half-started system and would return it at the next try.
                SharedSystemClient._identifier_to_system.pop(path, None)
                if not _is_failure(error):
                    raise
                raise IndexBrokenError(f"Chroma cannot open {path}: {error}", self._is_full(error)) from error
        return self._client

    def _is_full(self, error: BaseException) -> bool:
        """Whether it was for want of room on the disk that an embedded index failed."""
        told = any(sign in str(error).lower() for sign in _NO_ROOM)
        return self.embedded and (told or shutil.disk_usage(self._folder.parent).free < _LITTLE_ROOM)

    def _open(self, part: int) -> Collection:
        from chromadb.api.collection_configuration import CreateHNSWConfiguration, UpdateHNSWConfiguration

        name, wanted = self._called(part), CreateHNSWConfiguration(space=_SPACE, ef_search=_EF_SEARCH)
        collection = self._connect().get_or_create_collection(
            name, embedding_function=None, configuration={"hnsw": wanted}
        )
        # Not `collection.configuration`: it would run an embedding function named in the stored JSON.
        hnsw = collection.configuration_json.get("hnsw") or {}
        space = hnsw.get("space")
        if space != _SPACE:
            raise IndexBrokenError(f"the collection {name!r} has the space {space!r}; expected {_SPACE!r}.")
        if hnsw.get("ef_search") != _EF_SEARCH:  # made by an earlier version
            collection.modify(configuration={"hnsw": UpdateHNSWConfiguration(ef_search=_EF_SEARCH)})
        return collection


def _is_failure(error: BaseException) -> bool:
    """Whether Chroma failed; a panic of its Rust part is not an ``Exception``."""
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"
