from __future__ import annotations

import asyncio

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError
from llama_index.core import VectorStoreIndex
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index.llms.cmt import CMTLLM
from llama_index.response_synthesizers.cmt import CMTSynthesizer, as_query_engine
from llama_index.retrievers.cmt import CMTRetriever
from llama_index.vector_stores.cmt import CMTVectorStore
from tests.contracts.query_engines import QueryEngineContract
from tests.test_llm import seen_ids
from tests.tiny import QUESTION, TEXTS, nodes


@pytest.fixture(scope="module")
def filled(cmt_tiny, tmp_path_factory):
    with CMTMemoryStore(tmp_path_factory.mktemp("filled"), cmt_tiny) as store:
        CMTVectorStore(store=store).add(nodes())
        yield store


class TestTheStoresQueryEngine(QueryEngineContract):
    @pytest.fixture
    def make(self, filled):
        return lambda **options: as_query_engine(filled, **options)

    @pytest.fixture
    def answer(self, filled):
        return lambda question, k: filled.ask(question, k=k).text


class TestAnIndexsQueryEngine(TestTheStoresQueryEngine):
    @pytest.fixture
    def make(self, filled):
        vector_store, llm = CMTVectorStore(store=filled), CMTLLM(store=filled)
        index = VectorStoreIndex.from_vector_store(vector_store, embed_model=vector_store.embed_model)

        def make(streaming=False, **options):
            synthesizer = CMTSynthesizer(llm, streaming=streaming)
            return index.as_query_engine(llm=llm, response_synthesizer=synthesizer, **options)

        return make


class TestARetrieverQueryEngine(TestTheStoresQueryEngine):
    @pytest.fixture
    def make(self, filled):
        def make(streaming=False, node_postprocessors=None, **options):
            synthesizer = CMTSynthesizer(CMTLLM(store=filled), streaming=streaming)
            return RetrieverQueryEngine(CMTRetriever(filled, **options), synthesizer, node_postprocessors)

        return make


def test_the_answer_comes_from_the_memories_and_no_text_is_read(filled):
    engine = as_query_engine(filled, similarity_top_k=2)
    answers = []
    ids = seen_ids(filled.model, lambda: answers.append(str(engine.query(QUESTION))))
    assert answers == ["4471"]
    read = filled.model.lm.tokenizer.decode(ids)
    assert QUESTION in read
    assert not [text for text in TEXTS if text[:20] in read or text[-20:] in read]


def test_settings_of_the_lm_reach_it(filled):
    assert (
        str(as_query_engine(filled, max_new_tokens=1).query(QUESTION))
        == filled.ask(QUESTION, k=2, max_new_tokens=1).text
    )
    with pytest.raises(InvalidInputError, match="set them on the llm"):
        as_query_engine(filled, llm=CMTLLM(store=filled), max_new_tokens=1)


def test_passages_of_a_long_document_are_injected_alone(store):
    long = "\n\n".join(f"The code of room {i} is {1000 + 37 * i}." for i in range(120))
    store.add_documents([long], ids=["long"])
    question = "What is the code of room 50?"
    response = as_query_engine(store, similarity_top_k=1).query(question)
    assert response.source_nodes[0].node.node_id.startswith("long#")
    assert str(response) == store.ask(question, k=1).text


def test_nodes_of_elsewhere_are_compressed_for_the_answer(filled, caplog):
    elsewhere = [NodeWithScore(node=TextNode(id_="elsewhere", text="The code of the red locker is 9032."), score=1.0)]
    for llm in (CMTLLM(store=filled), CMTLLM(model=filled.model)):
        response = CMTSynthesizer(llm).synthesize("What is the code of the red locker?", elsewhere)
        assert str(response) == "9032"
    assert "does not hold" in caplog.text


def test_texts_alone_are_injected_too(filled):
    synthesizer = CMTSynthesizer(CMTLLM(store=filled))
    assert (
        synthesizer.get_response("What is the code of the red locker?", ["The code of the red locker is 9032."])
        == "9032"
    )


def test_other_lms_are_refused():
    with pytest.raises(InvalidInputError, match="only CMTLLM takes memories"):
        CMTSynthesizer(MockLLM())


@pytest.mark.parametrize("engine", [ContextChatEngine, CondensePlusContextChatEngine])
def test_chat_engines_with_context(qwen, tmp_path, engine):
    with CMTMemoryStore(tmp_path / "s", qwen) as store:
        CMTVectorStore(store=store).add(nodes())
        chat = engine.from_defaults(retriever=CMTRetriever(store), llm=CMTLLM(store=store, max_new_tokens=8))
        assert chat.chat(QUESTION).response
        response = chat.chat("And who keeps it?")
        assert response.response
        assert response.source_nodes
        assert "".join(chat.stream_chat("And then?").response_gen)


def test_every_mode_of_an_indexs_chat_engine(qwen, tmp_path):
    with CMTMemoryStore(tmp_path / "s", qwen) as store:
        vector_store, llm = CMTVectorStore(store=store), CMTLLM(store=store, max_new_tokens=8)
        vector_store.add(nodes())
        index = VectorStoreIndex.from_vector_store(vector_store, embed_model=vector_store.embed_model)
        for mode in ("context", "condense_plus_context", "condense_question", "simple", "best"):
            chat = index.as_chat_engine(chat_mode=mode, llm=llm)
            assert chat.chat(QUESTION).response, mode


def answer_from(store, text):
    return store.generator.generate(QUESTION, store.model.compress([text])).text


class Redacted(BaseNodePostprocessor):
    """Puts another text into the nodes, as postprocessors do that hide or widen what was found."""

    text: str

    def _postprocess_nodes(self, nodes, query_bundle=None):
        return [NodeWithScore(node=TextNode(id_=one.node.node_id, text=self.text), score=one.score) for one in nodes]


def test_what_a_postprocessor_has_changed_is_what_is_answered_from(store):
    store.add_documents(nodes())
    retriever, synthesizer = CMTRetriever(store, 1), CMTSynthesizer(CMTLLM(store=store))
    redacted = Redacted(text="The code of the blue locker is 9032.")
    engine = RetrieverQueryEngine(retriever, response_synthesizer=synthesizer, node_postprocessors=[redacted])
    expected = answer_from(store, redacted.text)
    assert str(engine.query(QUESTION)) == str(asyncio.run(engine.aquery(QUESTION))) == expected
    assert expected != answer_from(store, TEXTS[0])


def test_a_node_with_the_name_of_a_passage(store):
    store.add_documents(["Pip is a dog."], ids=["pip"])
    CMTVectorStore(store=store).add([TextNode(id_="pip#0", text=TEXTS[0])])
    engine = RetrieverQueryEngine(CMTRetriever(store, 1), response_synthesizer=CMTSynthesizer(CMTLLM(store=store)))
    assert str(engine.query(QUESTION)) == answer_from(store, TEXTS[0])


def test_an_option_that_no_part_knows_is_refused(store):
    with pytest.raises(InvalidInputError, match="similarty_top_k"):
        as_query_engine(store, similarty_top_k=2)
