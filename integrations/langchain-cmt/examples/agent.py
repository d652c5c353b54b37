"""An agent that remembers over conversations, with a checkpointer: `python examples/agent.py`."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from cmt_memory import CMTMemoryStore
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from langchain_cmt import ChatCMT, CMTMemoryMiddleware


def main() -> None:
    with TemporaryDirectory() as folder, CMTMemoryStore(folder, model="cmt-tiny") as store:
        store.add_documents(["The spare key is behind the red toolbox.", "The PIN of the printer Heron is 4410."])
        agent = create_agent(
            ChatCMT(store=store, max_tokens=16),
            middleware=[CMTMemoryMiddleware(store, k=1)],
            checkpointer=InMemorySaver(),
        )
        for thread, question in enumerate(["Where is the spare key?", "What is the PIN of the printer Heron?"]):
            state = agent.invoke({"messages": [question]}, {"configurable": {"thread_id": str(thread)}})
            print(question, state["messages"][-1].text)


if __name__ == "__main__":
    main()
