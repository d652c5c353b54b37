from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError, StoreClosedError
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from llama_index.vector_stores.cmt import CMTVectorStore
from tests.contracts.vector_stores import VectorStoreContract
from tests.tiny import QUESTION, TEXTS, nodes, tiny_model


class WordHashes(BaseEmbedding):
    """A small embed model without weights: a bag of hashed words."""

    model_name: str = "word-hashes"

    def _get_text_embedding(self, text):
        vector = [0.001] * 256
        for word in text.lower().replace(".", " ").replace("?", " ").split():
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 256] += 1.0
        return vector

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


@pytest.fixture
def quick_store(qwen, tmp_path):
    with CMTMemoryStore(tmp_path / "store", qwen, encoder=WordHashes(), lazy=True) as opened:
        yield opened


class TestCMTVectorStore(VectorStoreContract):
    @pytest.fixture
    def vector_store(self, quick_store):
        return CMTVectorStore(store=quick_store)

    @pytest.fixture
    def embed_model(self, vector_store):
        return vector_store.embed_model


class TestWithAnEmbedModelOfTheUsers(TestCMTVectorStore):
    """Whatever an index embeds by, the store's own encoder decides."""

    @pytest.fixture
    def embed_model(self):
        return MockEmbedding(embed_dim=8)

    def test_more_nodes_than_a_batch_of_the_index(self):
        """Tested once, with the store's own."""


class TestWithTheBundledModel(VectorStoreContract):
    @pytest.fixture
    def vector_store(self, store):
        return CMTVectorStore(store=store)

    @pytest.fixture
    def embed_model(self, vector_store):
        return vector_store.embed_model

    def test_more_nodes_than_a_batch_of_the_index(self):
        """Tested with a quick encoder."""


def test_adding_again_costs_no_lm_pass(store):
    passes = []
    hook = store.model.lm.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    vector_store = CMTVectorStore(store=store)
    vector_store.add(nodes())
    count = len(passes)
    assert count > 0
    vector_store.add(nodes(excluded_llm_metadata_keys=["number"]))
    assert len(passes) == count
    hook.remove()
    assert vector_store.get_nodes(["n0"])[0].excluded_llm_metadata_keys == ["number"]


def test_a_node_without_text_is_left_out_with_a_warning(store, caplog):
    vector_store = CMTVectorStore(store=store)
    vector_store.add([TextNode(id_="page", text="Something.")])
    with caplog.at_level(logging.WARNING):
        assert vector_store.add([TextNode(id_="page", text=" \n"), *nodes()[:1]]) == ["page", "n0"]
    assert "'page'" in caplog.text
    assert [node.node_id for node in vector_store.get_nodes()] == ["n0"]


def test_metadata_that_is_not_json(store):
    with pytest.raises(InvalidInputError, match="'bad' cannot be written as JSON"):
        CMTVectorStore(store=store).add([TextNode(id_="bad", text="text", metadata={"x": object()})])
    assert len(store) == 0


def test_metadata_of_the_users_under_the_stores_own_names(store):
    vector_store = CMTVectorStore(store=store)
    mine = {"ref_doc_id": "mine", "_node": 3, "$odd": 1, "": None}
    [node, *_] = nodes()
    node.metadata = mine
    vector_store.add([node])
    [back] = vector_store.get_nodes(["n0"])
    assert back.metadata == mine
    assert back.ref_doc_id == "source0"


def test_delete_needs_ids_or_filters(store):
    with pytest.raises(InvalidInputError, match="call clear"):
        CMTVectorStore(store=store).delete_nodes()


def test_options_of_the_store_reach_it(cmt_tiny, tmp_path):
    now = [1000.0]
    with CMTMemoryStore(tmp_path / "s", cmt_tiny, encoder=None, clock=lambda: now[0]) as store:
        vector_store, seen = CMTVectorStore(store=store), []
        vector_store.add(nodes(), ttl=60, on_progress=seen.extend, unknown="to others")
        assert len(seen) == 6
        now[0] += 61
        assert vector_store.get_nodes() == []


def test_a_pipeline_of_documents_as_they_are(store):
    vector_store = CMTVectorStore(store=store)
    pipeline = IngestionPipeline(
        transformations=[vector_store.embed_model],
        vector_store=vector_store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
    )
    pipeline.run(documents=[Document(id_="d", text="before")])
    pipeline.run(documents=[Document(id_="d", text="after")])
    assert [(node.node_id, node.get_content()) for node in vector_store.get_nodes()] == [("d", "after")]


def test_a_store_without_texts_leaves_them_to_the_index(cmt_tiny, tmp_path):
    with CMTMemoryStore(tmp_path / "s", cmt_tiny, keep_text=False) as store:
        vector_store = CMTVectorStore(store=store)
        assert not vector_store.stores_text
        context = StorageContext.from_defaults(vector_store=vector_store)
        index = VectorStoreIndex(nodes(), storage_context=context, embed_model=vector_store.embed_model)
        [found] = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
        assert (found.node.node_id, found.node.get_content()) == ("n0", TEXTS[0])
        assert vector_store.query(VectorStoreQuery(query_str=QUESTION)).nodes is None


def test_nodes_and_documents_added_to_the_store_itself(store):
    ids = store.add_documents([*nodes()[:2], Document(id_="own", text=TEXTS[2], metadata={"by": "hand"})])
    assert ids == ["n0", "n1", "own"]
    vector_store = CMTVectorStore(store=store)
    [found] = vector_store.get_nodes(["own"])
    assert (found.get_content(), found.metadata) == (TEXTS[2], {"by": "hand"})
    vector_store.delete("own")
    assert len(store) == 2


def test_passages_of_a_document_by_their_id(store):
    store.add_documents([" ".join(TEXTS * 40)], ids=["long"])
    vector_store = CMTVectorStore(store=store)
    assert [node.node_id for node in vector_store.get_nodes(["long#1", "long#99", "long"])] == ["long#1", "long"]


def test_its_stand_in_for_an_embed_model_never_embeds_a_question(store):
    with pytest.raises(InvalidInputError, match=r"store\.embed"):
        CMTVectorStore(store=store).embed_model.get_query_embedding("What?")


def test_it_serialises_without_the_store(store):
    assert "store" not in CMTVectorStore(store=store).to_dict()


def test_a_model_without_a_template_does_as_well(tmp_path):
    with CMTMemoryStore(tmp_path / "s", tiny_model(chat=False), encoder=None) as store:
        assert CMTVectorStore(store=store).add(nodes()) == [f"n{number}" for number in range(6)]


def test_one_id_is_not_taken_letter_by_letter(store):
    vector_store = CMTVectorStore(store=store)
    vector_store.add(nodes())
    assert [node.node_id for node in vector_store.get_nodes("n0")] == ["n0"]
    for named, expected in (({"node_ids": "n0"}, {"n0"}), ({"doc_ids": "source0"}, {"n0", "n1"})):
        found = vector_store.query(VectorStoreQuery(query_str=QUESTION, similarity_top_k=9, **named))
        assert set(found.ids) == expected
    vector_store.delete_nodes("n0")
    assert vector_store.get_nodes(["n0"]) == []


def test_more_ids_than_a_filter_takes(store):
    vector_store = CMTVectorStore(store=store)
    vector_store.add(nodes())
    many = [f"id{number}" for number in range(40_000)]
    assert [node.node_id for node in vector_store.get_nodes([*many, "n0"])] == ["n0"]
    vector_store.delete_nodes([*many, "n0"])
    assert len(store) == len(nodes()) - 1


def test_several_threads_delete_the_same(store):
    vector_store = CMTVectorStore(store=store)
    vector_store.add([TextNode(id_=f"x{number}", text=f"Text {number}.") for number in range(40)])
    with ThreadPoolExecutor(4) as threads:
        for start in range(0, 40, 4):
            list(threads.map(vector_store.delete_nodes, [[f"x{n}" for n in range(start, start + 4)]] * 4))
    assert len(store) == 0


@pytest.mark.parametrize("mode", ["default", "mmr", "hybrid", "text_search"])
@pytest.mark.parametrize(("operator", "value"), [("contains", "rare"), ("any", ["rare"]), ("all", ["rare", "all"])])
def test_k_is_filled_where_a_filter_is_checked_after_the_search(crowded, mode, operator, value):
    filters = MetadataFilters(filters=[MetadataFilter(key="tags", value=value, operator=operator)])
    query = VectorStoreQuery(query_str=QUESTION, similarity_top_k=5, filters=filters, mode=mode)
    assert sorted(crowded.query(query).ids) == [f"far{number}" for number in range(5)]


@pytest.fixture(scope="module")
def crowded(qwen, tmp_path_factory):
    """Five nodes that a question hardly finds, behind three hundred that it finds first."""
    with CMTMemoryStore(tmp_path_factory.mktemp("crowded"), qwen, lazy=True) as store:
        made = CMTVectorStore(store=store)
        texts = [f"The code of the blue locker {n} is {n}." for n in range(300)]
        near = [TextNode(text=text, metadata={"tags": ["all"]}) for text in texts]
        far = [(f"far{n}", f"Quarterly report {n} of the locker office.") for n in range(5)]
        made.add([*near, *(TextNode(id_=id, text=text, metadata={"tags": ["rare", "all"]}) for id, text in far)])
        yield made


def test_what_it_does_not_know_is_refused(store):
    with pytest.raises(InvalidInputError, match=r"CMTVectorStore got \['collection_name'\]"):
        CMTVectorStore(store=store, collection_name="notes")
    query = VectorStoreQuery(query_str=QUESTION, mode="mmr")
    with pytest.raises(TypeError, match="mmr_treshold"):
        CMTVectorStore(store=store).query(query, mmr_treshold=0.5)


def test_a_closed_store_says_so(cmt_tiny, tmp_path):
    store = CMTMemoryStore(tmp_path / "s", cmt_tiny)
    vector_store = CMTVectorStore(store=store)
    store.close()
    for call in (
        lambda: vector_store.add(nodes()),
        lambda: vector_store.get_nodes(["n0"]),
        lambda: vector_store.delete("source0"),
        lambda: vector_store.delete_nodes(["n0"]),
        lambda: vector_store.clear(),
        lambda: vector_store.query(VectorStoreQuery(query_str=QUESTION)),
    ):
        with pytest.raises(StoreClosedError):
            call()


def test_a_store_without_texts_and_a_long_document(qwen, tmp_path):
    with CMTMemoryStore(tmp_path / "s", qwen, keep_text=False) as store:
        long = "\n\n".join(f"Room {n} is on floor {n % 7}." for n in range(300))
        store.add_documents([long, TEXTS[0]], ids=["l", "s"])
        assert len(store.passages("l")) > 2
        found = CMTVectorStore(store=store).find(VectorStoreQuery(query_str="room 50", similarity_top_k=2))
        assert [one.node.node_id for one in found] == [hit.passage for hit in store.search("room 50", k=2)]
        [short] = CMTVectorStore(store=store).find(VectorStoreQuery(query_str=QUESTION, similarity_top_k=1))
        assert short.node.node_id == "s"
