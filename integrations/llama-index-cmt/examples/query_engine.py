"""Remember three notes, ask about them, and see that the prompt holds none of them."""

from __future__ import annotations

import sys
import tempfile

from cmt_memory import CMTMemoryStore
from llama_index.core import Document


def main(folder: str) -> str:
    with CMTMemoryStore(folder, model="cmt-tiny") as store:
        store.add_documents(
            [
                Document(text="The code of the blue locker is 4471.", metadata={"by": "Mara"}),
                Document(text="The shop opens at 9:30.", metadata={"by": "Tom"}),
                Document(text="The shop dog is called Biscuit.", metadata={"by": "Tom"}),
            ]
        )
        engine = store.as_query_engine(similarity_top_k=2)
        response = engine.query("What is the code of the blue locker?")
        print(response, "from", [source.node.metadata["by"] for source in response.source_nodes])
        return str(response)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
