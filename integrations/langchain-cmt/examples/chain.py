"""Questions to a folder of notes, answered from memories: `python examples/chain.py`."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from cmt_memory import CMTMemoryStore
from langchain_core.documents import Document

NOTES = {
    "team": "The owner of Tideway Bikes is Marta Oliveira. The head mechanic is Jonas Brandt.",
    "shop": "The shop opens at 8:30. The shop closes at 18:00. The closing day of the shop is Sunday.",
}
QUESTIONS = ["Who is the head mechanic?", "When does the shop close?"]


def main() -> None:
    with TemporaryDirectory() as folder, CMTMemoryStore(folder, model="cmt-tiny") as store:
        store.as_vector_store().add_documents([Document(text, id=name) for name, text in NOTES.items()])
        chat = store.as_chat_model(k=1, max_tokens=16)
        for question, answer in zip(QUESTIONS, chat.batch(QUESTIONS), strict=True):
            [memory] = answer.response_metadata["memories"]
            print(f"{question} {answer.text}  (from {memory['id']}, {answer.usage_metadata})")


if __name__ == "__main__":
    main()
