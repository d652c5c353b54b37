"""What LlamaIndex expects of a vector store that keeps texts."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import ImageNode, IndexNode, Node, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from tests.contracts.retrievers import HARBOUR, only
from tests.tiny import QUESTION, TEXTS, nodes


class VectorStoreContract:
    """Any vector store that keeps texts, empty at first."""

    @pytest.fixture
    @abstractmethod
    def vector_store(self) -> Any:
        """An empty vector store."""

    @pytest.fixture
    @abstractmethod
    def embed_model(self) -> Any:
        """The embed model that goes with it."""

    @pytest.fixture
    def add(self, vector_store, embed_model) -> Any:
        """Add nodes with embeddings, as an index does."""

        def add(given: list[Any]) -> list[str]:
            for node in given:
                node.embedding = embed_model.get_text_embedding(node.get_content())
            return vector_store.add(given)

        return add

    @pytest.fixture
    def find(self, vector_store, embed_model) -> Any:
        """Ids that a question finds, best first."""

        def find(question: str = QUESTION, k: int = 50, **settings: Any) -> list[str]:
            vector = embed_model.get_query_embedding(question) if vector_store.is_embedding_query else None
            query = VectorStoreQuery(query_str=question, query_embedding=vector, similarity_top_k=k, **settings)
            return [node.node_id for node in vector_store.query(query).nodes]

        return find

    @pytest.fixture
    def index(self, vector_store, embed_model) -> Any:
        """An index over the vector store, which splits nothing."""
        context = StorageContext.from_defaults(vector_store=vector_store)
        return VectorStoreIndex([], storage_context=context, embed_model=embed_model, transformations=[])

    # -- nodes

    def test_it_is_a_vector_store_that_keeps_texts(self, vector_store):
        assert isinstance(vector_store, BasePydanticVectorStore)
        assert vector_store.stores_text
        assert vector_store.class_name() == type(vector_store).__name__

    def test_an_empty_one_finds_nothing(self, find):
        assert find() == []

    def test_add_returns_the_ids_in_order(self, add, find):
        assert add(nodes()) == [f"n{number}" for number in range(6)]
        assert find(k=1) == ["n0"]

    def test_nodes_come_back_as_they_went_in(self, add, vector_store):
        given = [
            *nodes(),
            Node(
                id_="node", text_resource={"text": "A node of the newer kind."}, metadata={"list": [1, {"deep": None}]}
            ),
            IndexNode(id_="index", text="What the index holds.", index_id="inside"),
            ImageNode(id_="image", text="A picture of a locker.", image_url="http://localhost/a.png"),
        ]
        add(given)
        for back, node in zip(vector_store.get_nodes([node.node_id for node in given]), given, strict=True):
            assert type(back) is type(node)
            assert back.get_content() == node.get_content()
            expected = node.to_dict() | {"embedding": None}
            assert {key: back.to_dict()[key] for key in expected if "resource" not in key} == {
                key: value for key, value in expected.items() if "resource" not in key
            }

    def test_adding_again_replaces(self, add, find, vector_store):
        add(nodes())
        add([TextNode(id_="n0", text="Mara Velt has moved: the code of the blue locker is 9001.", metadata={"new": 1})])
        [back] = vector_store.get_nodes(["n0"])
        assert "9001" in back.get_content()
        assert back.metadata == {"new": 1}
        assert len(find()) == 6
        assert vector_store.get_nodes(filters=only("number", 0)) == []

    def test_of_two_with_one_id_the_later_stays(self, add, vector_store):
        assert add([TextNode(id_="x", text="before"), TextNode(id_="x", text="after")]) == ["x", "x"]
        assert [node.get_content() for node in vector_store.get_nodes(["x"])] == ["after"]

    def test_delete_by_source_document(self, add, find, vector_store):
        add(nodes())
        vector_store.delete("source1")
        assert sorted(find()) == ["n0", "n1", "n4", "n5"]
        vector_store.delete("unknown")
        assert len(find()) == 4

    def test_delete_nodes_by_id_and_by_filter(self, add, find, vector_store):
        add(nodes())
        vector_store.delete_nodes(["n0", "unknown"])
        vector_store.delete_nodes(filters=only("number", 4, ">="))
        vector_store.delete_nodes(["n1", "n2"], filters=only("even", 1, "is_empty"))
        assert sorted(find()) == ["n1", "n2", "n3"]
        vector_store.delete_nodes(["n1", "n2"], filters=only("tags", "t2", "contains"))
        assert sorted(find()) == ["n1", "n3"]

    def test_clear(self, add, find, vector_store):
        add(nodes())
        vector_store.clear()
        assert find() == vector_store.get_nodes() == []
        add(nodes())
        assert len(find()) == 6

    def test_get_nodes_in_the_order_asked_for(self, add, vector_store):
        add(nodes())
        assert [node.node_id for node in vector_store.get_nodes(["n4", "unknown", "n1"])] == ["n4", "n1"]
        assert len(vector_store.get_nodes()) == 6

    def test_async_does_the_same(self, add, find, vector_store, embed_model):
        async def use() -> None:
            given = nodes()
            for node in given:
                node.embedding = await embed_model.aget_text_embedding(node.get_content())
            assert await vector_store.async_add(given) == [f"n{number}" for number in range(6)]
            vector = embed_model.get_query_embedding(QUESTION) if vector_store.is_embedding_query else None
            query = VectorStoreQuery(query_str=QUESTION, query_embedding=vector, similarity_top_k=1)
            assert [node.node_id for node in (await vector_store.aquery(query)).nodes] == ["n0"]
            await vector_store.adelete("source0")
            await vector_store.adelete_nodes(["n2"])
            assert [node.node_id for node in await vector_store.aget_nodes()] == ["n3", "n4", "n5"]
            await vector_store.aclear()

        asyncio.run(use())
        assert find() == []

    # -- filters

    @pytest.mark.parametrize(
        ("key", "operator", "value", "numbers"),
        [
            ("number", "==", 2, [2]),
            ("number", "!=", 2, [0, 1, 3, 4, 5]),
            ("number", ">", 3, [4, 5]),
            ("number", ">=", 3, [3, 4, 5]),
            ("number", "<", 2, [0, 1]),
            ("number", "<=", 2, [0, 1, 2]),
            ("number", "in", [1, 4, 9], [1, 4]),
            ("number", "nin", [1, 4, 9], [0, 2, 3, 5]),
            ("number", "==", 2.0, [2]),
            ("title", "==", "Text 3", [3]),
            ("title", "!=", "Text 3", [0, 1, 2, 4, 5]),
            ("title", ">", "Text 3", [4, 5]),
            ("title", "in", ["Text 0"], [0]),
            ("tags", "any", ["t0", "t1"], [0, 1, 3, 4]),
            ("tags", "all", ["all", "t2"], [2, 5]),
            ("tags", "contains", "t1", [1, 4]),
            ("title", "text_match", "ext 3", [3]),
            ("title", "text_match", "EXT 3", []),
            ("title", "text_match_insensitive", "EXT 3", [3]),
            ("odd", "is_empty", None, [0, 2, 4]),
            ("missing", "is_empty", None, [0, 1, 2, 3, 4, 5]),
            ("missing", "==", 1, []),
            ("missing", "!=", 1, [0, 1, 2, 3, 4, 5]),
            ("missing", "nin", [1], [0, 1, 2, 3, 4, 5]),
            ("missing", ">", 1, []),
            ("missing", "contains", "a", []),
            ("missing", "any", ["a"], []),
            ("missing", "text_match", "a", []),
        ],
    )
    def test_every_operator(self, add, find, vector_store, key, operator, value, numbers):
        add(_titled())
        filters = only(key, value, operator)
        assert sorted(find(filters=filters)) == [f"n{number}" for number in numbers]
        assert sorted(node.node_id for node in vector_store.get_nodes(filters=filters)) == [f"n{n}" for n in numbers]

    @pytest.mark.parametrize(
        ("condition", "numbers"),
        [(FilterCondition.AND, [3]), (FilterCondition.OR, [0, 3, 4, 5]), (FilterCondition.NOT, [1, 2]), (None, [3])],
    )
    def test_every_condition(self, add, find, condition, numbers):
        add(_titled())
        parts = [
            MetadataFilter(key="number", value=3, operator=">="),
            MetadataFilter(key="tags", value="t0", operator="contains"),
        ]
        found = find(filters=MetadataFilters(filters=parts, condition=condition))
        assert sorted(found) == [f"n{number}" for number in numbers]

    def test_filters_before_the_number_of_results(self, add, find):
        add(_titled())
        assert find(k=1, filters=only("tags", ["t2"], "any")) in (["n2"], ["n5"])
        assert len(find(k=2, filters=only("tags", ["t2"], "any"))) == 2

    # -- indexes and pipelines

    def test_behind_an_index(self, vector_store, embed_model):
        context = StorageContext.from_defaults(vector_store=vector_store)
        documents = [Document(id_=f"d{number}", text=text) for number, text in enumerate(TEXTS)]
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embed_model)
        [found] = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
        assert found.node.ref_doc_id == "d0"
        index.delete_ref_doc("d0")
        assert index.as_retriever(similarity_top_k=1).retrieve(QUESTION)[0].node.ref_doc_id != "d0"
        index.insert(Document(id_="new", text="The code of the blue locker is 1234."))
        again = VectorStoreIndex.from_vector_store(vector_store, embed_model=embed_model)
        assert again.as_retriever(similarity_top_k=1).retrieve(QUESTION)[0].node.ref_doc_id == "new"

    def test_an_index_inserts_and_deletes_nodes(self, index, find):
        index.insert_nodes(nodes())
        index.delete_nodes(["n0", "n1"])
        assert sorted(find()) == ["n2", "n3", "n4", "n5"]
        asyncio.run(index.ainsert_nodes(nodes()[:1]))
        assert find(k=1) == ["n0"]

    def test_refresh_replaces_what_changed(self, vector_store, embed_model):
        documents = [Document(id_=f"d{number}", text=text) for number, text in enumerate(TEXTS)]
        context = StorageContext.from_defaults(vector_store=vector_store)
        index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embed_model)
        documents[0] = Document(id_="d0", text="The code of the blue locker is 9001.")
        documents.append(Document(id_="d6", text="Something new."))
        assert index.refresh_ref_docs(documents) == [True, False, False, False, False, False, True]
        texts = [node.get_content() for node in vector_store.get_nodes()]
        assert sorted(texts) == sorted(document.text for document in documents)

    def test_more_nodes_than_a_batch_of_the_index(self, vector_store, embed_model):
        many = [TextNode(id_=f"m{number}", text=f"Item {number}.", metadata={"n": number}) for number in range(6_000)]
        for node in many:
            node.embedding = embed_model.get_text_embedding(node.text)
        assert len(vector_store.add(many)) == 6_000
        assert len(vector_store.get_nodes(filters=only("n", 0, ">="))) == 6_000
        vector_store.delete_nodes([node.node_id for node in many[:5_990]])
        assert [node.metadata["n"] for node in vector_store.get_nodes()] == list(range(5_990, 6_000))

    @pytest.fixture
    def pipeline(self, vector_store, embed_model) -> Any:
        """A pipeline that splits, embeds, and upserts."""
        return IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=60, chunk_overlap=0), embed_model],
            vector_store=vector_store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
        )

    def test_a_pipeline_upserts(self, pipeline, find, vector_store):
        documents = [Document(id_=f"d{number}", text=text) for number, text in enumerate(TEXTS)]
        assert len(pipeline.run(documents=documents)) == 6
        assert pipeline.run(documents=documents) == []
        documents[1] = Document(id_="d1", text="The harbour of Port Alder was rebuilt in 2001.")
        assert len(pipeline.run(documents=documents)) == 1
        assert len(find()) == 6
        [best] = vector_store.get_nodes(find(HARBOUR, k=1))
        assert best.get_content().endswith("2001.")
        assert best.ref_doc_id == "d1"

    def test_a_pipeline_upserts_and_deletes(self, pipeline, vector_store):
        pipeline.docstore_strategy = DocstoreStrategy.UPSERTS_AND_DELETE
        documents = [Document(id_=f"d{number}", text=text) for number, text in enumerate(TEXTS)]
        pipeline.run(documents=documents)
        asyncio.run(pipeline.arun(documents=documents[:2]))
        assert sorted(node.ref_doc_id for node in vector_store.get_nodes()) == ["d0", "d1"]

    def test_a_pipeline_replaces_a_long_document_by_a_short_one(self, pipeline, vector_store):
        long = " ".join(f"Room {number} is on floor {number % 7}." for number in range(60))
        pipeline.run(documents=[Document(id_="d", text=long), Document(id_="e", text=TEXTS[0])])
        assert len(vector_store.get_nodes(filters=only("ref_doc_id", "d"))) > 5
        pipeline.run(documents=[Document(id_="d", text="There are no rooms.")])
        assert [node.get_content() for node in vector_store.get_nodes()] == [TEXTS[0], "There are no rooms."]


def _titled() -> list[TextNode]:
    given = nodes()
    for number, node in enumerate(given):
        node.metadata |= {"title": f"Text {number}"} | ({"odd": "yes"} if number % 2 else {"odd": [] if number else ""})
    return given
