"""`langchain_core.indexing.index` keeps a store in step with its sources."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index

from langchain_cmt import CMTVectorStore


@pytest.fixture
def records():
    manager = InMemoryRecordManager("cmt")
    manager.create_schema()
    return manager


@pytest.fixture
def vectors(store):
    store.delete(store.document_ids())
    return CMTVectorStore(store=store)


def document(text, source):
    return Document(page_content=text, metadata={"source": source})


def counts(added=0, updated=0, skipped=0, deleted=0):
    return {"num_added": added, "num_updated": updated, "num_skipped": skipped, "num_deleted": deleted}


def run(documents, records, vectors, cleanup, **options):
    return index(documents, records, vectors, cleanup=cleanup, source_id_key="source", key_encoder="sha256", **options)


FIRST = [document("Kitchen on floor 2.", "a"), document("Stairs in the hall.", "a"), document("Bins on Monday.", "b")]


def test_full_cleanup_deletes_what_is_gone(vectors, records):
    assert run(FIRST, records, vectors, "full") == counts(added=3)
    assert run(FIRST, records, vectors, "full") == counts(skipped=3)
    changed = [FIRST[0], document("Bins on Tuesday.", "b")]
    assert run(changed, records, vectors, "full") == counts(added=1, skipped=1, deleted=2)
    assert sorted(vectors.get()["documents"]) == ["Bins on Tuesday.", "Kitchen on floor 2."]
    assert run([], records, vectors, "full") == counts(deleted=2)
    assert vectors.get()["ids"] == []


def test_incremental_cleanup_keeps_other_sources(vectors, records):
    assert run(FIRST, records, vectors, "incremental") == counts(added=3)
    changed = [document("Kitchen on floor 3.", "a"), FIRST[1]]
    assert run(changed, records, vectors, "incremental", batch_size=2) == counts(added=1, skipped=1, deleted=1)
    assert sorted(vectors.get()["documents"]) == ["Bins on Monday.", "Kitchen on floor 3.", "Stairs in the hall."]


def test_scoped_full_cleanup_and_a_forced_update(vectors, records):
    assert run(FIRST, records, vectors, "scoped_full") == counts(added=3)
    assert run(FIRST[1:2], records, vectors, "scoped_full") == counts(skipped=1, deleted=1)
    assert run(FIRST[1:], records, vectors, None, force_update=True) == counts(updated=2)
    assert len(vectors.store) == 2


async def test_on_a_loop(vectors, records):
    settings = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    assert await aindex(FIRST, records, vectors, **settings) == counts(added=3)
    assert await aindex(FIRST[:1], records, vectors, **settings) == counts(skipped=1, deleted=2)
    assert vectors.get()["documents"] == [FIRST[0].page_content]
