"""The whole of it: an agent's code adds documents, the agent asks, and no text of theirs is in any prompt."""

from __future__ import annotations

import asyncio

from llama_index.core import Document
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.tools import FunctionTool, QueryEngineTool

from llama_index.response_synthesizers.cmt import as_query_engine
from llama_index.vector_stores.cmt import CMTVectorStore
from tests.scripted import ScriptedLLM, react

NAMES = """
Mara Tom Ines Kofi Lena Ravi Odile Henk Tamsin Noor Leo Hattie Jules Anouk Marek Petra Yannick Solomon Effie
Piers Saskia Otto Ida Maud Farrow Yilmaz Arne Benno Kwame Cyril Ewa Rhys Blythe Corinna Lotte Bea Szymon Juno
Emil Jorge Keiko Colin Ruth Dov Joy Finch Desmond Alasdair Fraser Nandini
""".split()  # noqa: SIM905
DOCUMENTS = [
    Document(id_=f"note{number}", text=f"{name}'s locker code is {1000 + 173 * number}.", metadata={"number": number})
    for number, name in enumerate(NAMES)
]
QUESTIONS = [f"What is {name}'s locker code?" for name in NAMES[::2][:20]]


def test_fifty_documents_twenty_questions_and_no_text_in_any_prompt(store):
    assert len(DOCUMENTS) == 50
    read = []

    def look(module, args, kwargs):
        ids = kwargs.get("input_ids")
        read.append(store.model.lm.tokenizer.decode((args[0] if ids is None else ids)[0]))

    remember = FunctionTool.from_defaults(
        lambda: len(CMTVectorStore(store=store).add(DOCUMENTS)), name="remember", description="Remembers all notes."
    )
    assert remember.call().raw_output == 50
    lockers = QueryEngineTool.from_defaults(
        as_query_engine(store, similarity_top_k=2), name="lockers", description="Knows the codes of lockers."
    )
    agent = ReActAgent(tools=[remember, lockers], llm=ScriptedLLM(says=react("lockers", QUESTIONS)), streaming=False)

    async def ask() -> list[str]:
        return [str(await agent.run(user_msg=question)) for question in QUESTIONS]

    hook = store.model.lm.model.register_forward_pre_hook(look, with_kwargs=True)
    answers = asyncio.run(ask())
    hook.remove()

    assert answers == [store.ask(question, k=2).text for question in QUESTIONS]
    right = [str(1000 + 173 * NAMES.index(question.split("'")[0].split()[-1])) for question in QUESTIONS]
    assert sum(answer == expected for answer, expected in zip(answers, right, strict=True)) > 10
    prompts = [text for text in read if "What is" in text]
    assert len(prompts) == 20
    for document in DOCUMENTS:
        assert not [text for text in read if document.text in text or f"code is {document.text.split()[-1]}" in text]
