from __future__ import annotations

import pytest
from cmt_memory import CMTMemoryStore, Document, InvalidInputError
from llama_index.core import Document as LlamaDocument
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.schema import IndexNode, QueryBundle, TextNode
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from llama_index.retrievers.cmt import CMTRetriever
from llama_index.vector_stores.cmt import CMTVectorStore
from tests.contracts.retrievers import HARBOUR, RetrieverContract
from tests.tiny import QUESTION, TEXTS, nodes

LONG = "\n\n".join(f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}. Ask at desk {i}." for i in range(100))


class StoreEncoder(BaseEmbedding):
    """The store's own encoder as an embed model."""

    encoder: object

    def _get_text_embedding(self, text):
        return self.encoder.encode_documents([text])[0].tolist()

    def _get_query_embedding(self, query):
        return self.encoder.encode_query(query).tolist()

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


@pytest.fixture(scope="module")
def filled(cmt_tiny, tmp_path_factory):
    with CMTMemoryStore(tmp_path_factory.mktemp("filled"), cmt_tiny) as store:
        CMTVectorStore(store=store).add(nodes())
        yield store


class TestCMTRetriever(RetrieverContract):
    @pytest.fixture
    def make(self, filled):
        return lambda **settings: CMTRetriever(store=filled, **settings)

    @pytest.fixture
    def embed(self, filled):
        return lambda question: filled.embed(question)[0].tolist()


class TestTheIndexsOwnRetriever(TestCMTRetriever):
    """`VectorIndexRetriever` over a `CMTVectorStore`."""

    @pytest.fixture
    def make(self, filled):
        vector_store = CMTVectorStore(store=filled)
        index = VectorStoreIndex.from_vector_store(vector_store, embed_model=vector_store.embed_model)
        return lambda **settings: VectorIndexRetriever(index, **settings)

    def test_custom_embedding_strings_are_searched_by(self, make):
        """The index's retriever drops them for a store that embeds by itself; `CMTRetriever` does not."""


class TestTheContractOnLlamaIndexsOwnParts(RetrieverContract):
    """The contract says what LlamaIndex's own retriever over its own vector store does."""

    @pytest.fixture
    def make(self, filled):
        index = VectorStoreIndex(nodes(), embed_model=StoreEncoder(encoder=filled.encoder))
        return lambda **settings: VectorIndexRetriever(index, **settings)

    @pytest.fixture
    def embed(self, filled):
        return lambda question: filled.embed(question)[0].tolist()


def test_it_finds_what_the_store_finds(filled):
    found = CMTRetriever(store=filled, similarity_top_k=4).retrieve(QUESTION)
    hits = filled.search(QUESTION, k=4)
    assert [(one.node.node_id, one.score, one.node.text) for one in found] == [(h.id, h.score, h.text) for h in hits]


def test_documents_that_were_added_to_the_store_itself(store):
    store.add_documents([Document(TEXTS[0], {"by": "hand"}, "own"), *TEXTS[1:]])
    [found] = CMTRetriever(store=store, similarity_top_k=1).retrieve(QUESTION)
    assert (found.node.node_id, found.node.text, found.node.metadata) == ("own", TEXTS[0], {"by": "hand"})


def test_a_long_document_comes_back_by_passages(store):
    store.add_documents([LlamaDocument(id_="long", text=LONG, metadata={"house": 7})])
    found = CMTRetriever(store=store, similarity_top_k=2).retrieve("What is the code of room 50?")
    hits = store.search("What is the code of room 50?", k=2)
    assert [one.node.node_id for one in found] == [hit.passage for hit in hits]
    for one, hit in zip(found, hits, strict=True):
        assert one.node.text == hit.text == LONG[one.node.start_char_idx : one.node.end_char_idx]
        assert one.node.ref_doc_id == "long"
        assert one.node.metadata == {"house": 7}


def test_a_long_node_comes_back_whole_and_once(store):
    CMTVectorStore(store=store).add([TextNode(id_="long", text=LONG), *nodes()])
    assert len(store.passages("long")) > 2
    found = CMTRetriever(store=store, similarity_top_k=3).retrieve("What is the code of room 50?")
    assert len({one.node.node_id for one in found}) == 3
    assert found[0].node.text == LONG


def test_only_nodes_of_some_documents(filled):
    found = CMTRetriever(store=filled, similarity_top_k=9, doc_ids=["source1", "n0"]).retrieve(QUESTION)
    assert sorted(one.node.node_id for one in found) == ["n0", "n2", "n3"]


@pytest.mark.parametrize("mode", ["text_search", "sparse"])
def test_by_words_alone(filled, mode):
    retriever = CMTRetriever(store=filled, vector_store_query_mode=mode, sparse_top_k=1)
    assert [one.node.node_id for one in retriever.retrieve("margherita")] == ["n2"]
    assert retriever.retrieve("zorblax") == []


def test_alpha_is_the_vectors_share(filled):
    def found(alpha):
        retriever = CMTRetriever(store=filled, vector_store_query_mode="hybrid", hybrid_top_k=2, alpha=alpha)
        return [one.node.node_id for one in retriever.retrieve("margherita? digits that open an azure cupboard")]

    assert found(0)[0] == "n2"
    assert found(1)[0] == "n0"
    assert set(found(0.5)) == set(found(None)) == {"n0", "n2"}
    with pytest.raises(InvalidInputError, match="alpha is 2"):
        found(2)


def test_mmr_prefers_what_is_different(store):
    twins = [TextNode(id_=f"twin{n}", text=f"The code of the blue locker is 4471{'.' * n}") for n in range(1, 4)]
    CMTVectorStore(store=store).add([*twins, *nodes()[1:]])
    near = CMTRetriever(store=store, similarity_top_k=2).retrieve(QUESTION)
    assert {one.node.node_id[:4] for one in near} == {"twin"}
    diverse = CMTRetriever(
        store=store,
        similarity_top_k=2,
        vector_store_query_mode=VectorStoreQueryMode.MMR,
        vector_store_kwargs={"mmr_threshold": 0.1},
    ).retrieve(QUESTION)
    assert diverse[0].node.node_id.startswith("twin")
    assert not diverse[1].node.node_id.startswith("twin")


def test_modes_that_no_store_of_memories_has(filled):
    with pytest.raises(InvalidInputError, match="mode is 'svm'; this store knows default"):
        CMTRetriever(store=filled, vector_store_query_mode="svm").retrieve(QUESTION)


def test_a_vector_of_another_model_is_refused(filled):
    with pytest.raises(InvalidInputError, match="the vector has the shape"):
        CMTRetriever(store=filled).retrieve(QueryBundle(QUESTION, embedding=[0.5] * 8))


def test_an_embed_model_of_the_users(filled):
    retriever = CMTRetriever(store=filled, embed_model=StoreEncoder(encoder=filled.encoder), similarity_top_k=1)
    assert retriever.retrieve(HARBOUR)[0].node.node_id == "n1"


def test_a_store_without_an_encoder(cmt_tiny, tmp_path):
    with CMTMemoryStore(tmp_path / "s", cmt_tiny, encoder=None) as store:
        CMTVectorStore(store=store).add(nodes())
        assert CMTRetriever(store=store).retrieve("blue locker")[0].node.node_id == "n0"


def test_an_index_node_leads_to_its_object(store):
    inner = IndexNode(id_="i", index_id="inside", text="Everything about lockers and their codes.")
    CMTVectorStore(store=store).add([inner])
    plain = TextNode(id_="object", text="what the index node stands for")
    retriever = CMTRetriever(store=store, object_map={"inside": plain})
    assert [one.node.node_id for one in retriever.retrieve("lockers")] == ["object"]


def test_it_wants_a_store():
    with pytest.raises(InvalidInputError, match="store is str; expected an open CMTMemoryStore"):
        CMTRetriever(store="mem")


def test_a_read_only_store(filled, cmt_tiny):
    with CMTMemoryStore(filled.path, cmt_tiny, read_only=True) as reader:
        assert CMTRetriever(store=reader).retrieve(QUESTION)[0].node.node_id == "n0"


def test_the_index_and_the_retriever_find_the_same(filled):
    vector_store = CMTVectorStore(store=filled)
    context = StorageContext.from_defaults(vector_store=vector_store)
    index = VectorStoreIndex([], storage_context=context, embed_model=vector_store.embed_model)
    assert index.as_retriever(similarity_top_k=3).retrieve(QUESTION) == CMTRetriever(filled, 3).retrieve(QUESTION)
