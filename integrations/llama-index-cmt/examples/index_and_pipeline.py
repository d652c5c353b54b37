"""An ingestion pipeline that keeps a store equal to its sources, and an index over it."""

from __future__ import annotations

import sys
import tempfile

from cmt_memory import CMTMemoryStore
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore

from llama_index.llms.cmt import CMTLLM
from llama_index.response_synthesizers.cmt import CMTSynthesizer
from llama_index.vector_stores.cmt import CMTVectorStore


def main(folder: str) -> list[str]:
    with CMTMemoryStore(folder, model="cmt-tiny") as store:
        vector_store, llm = CMTVectorStore(store=store), CMTLLM(store=store)
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=0), vector_store.embed_model],
            vector_store=vector_store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
        )
        index = VectorStoreIndex.from_vector_store(vector_store, embed_model=vector_store.embed_model)
        engine = index.as_query_engine(llm=llm, response_synthesizer=CMTSynthesizer(llm), similarity_top_k=1)
        answers = []
        for code in (4471, 9032):  # the second time the document has changed
            pipeline.run(documents=[Document(id_="locker", text=f"The code of the blue locker is {code}.")])
            answers.append(str(engine.query("What is the code of the blue locker?")))
        print(answers)
        return answers


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
