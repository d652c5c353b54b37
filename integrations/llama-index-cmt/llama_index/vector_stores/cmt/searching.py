"""A vector store's query as searches of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cmt_memory import CMTMemoryStore, InvalidInputError, MemoryHit
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from llama_index.vector_stores.cmt.filters import Where, all_of, translate
from llama_index.vector_stores.cmt.nodes import REF_DOC_ID, id_list, to_nodes, with_documents

_MORE = 4
_MMR_FACTOR = 4
_BY_WORDS = (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE)
_HYBRID = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.SEMANTIC_HYBRID)
_MODES = (VectorStoreQueryMode.DEFAULT, *_BY_WORDS, *_HYBRID, VectorStoreQueryMode.MMR)

Found = tuple[NodeWithScore, MemoryHit]


class _Scope(NamedTuple):
    """What may be found: a filter of the store, and what it cannot tell."""

    where: Where
    accepts: Callable[[MemoryHit, BaseNode], bool]


def run_query(
    store: CMTMemoryStore,
    query: VectorStoreQuery,
    *,
    mmr_threshold: float | None = None,
    mmr_prefetch_factor: float = _MMR_FACTOR,
) -> list[NodeWithScore]:
    """The nodes that a query finds, best first.

    Args:
        store: where to search.
        query: what for. By default the store searches as it always does, with the question's text or with a given
            embedding; other modes search by words alone, by both with `alpha` as the vectors' share, or by MMR.
        mmr_threshold: as other vector stores take it, where the query has none.
        mmr_prefetch_factor: how many times as many nodes MMR chooses from.

    Raises:
        InvalidInputError: a mode, filter or embedding that the store cannot search by.
    """
    mode, k = VectorStoreQueryMode(query.mode), query.similarity_top_k
    if mode not in _MODES:
        raise InvalidInputError(f"mode is {mode.value!r}; this store knows {', '.join(one.value for one in _MODES)}.")
    scope = _scope(query)
    if mode == VectorStoreQueryMode.MMR:
        threshold = mmr_threshold if query.mmr_threshold is None else query.mmr_threshold
        return _by_mmr(store, query, scope, threshold, mmr_prefetch_factor)
    if mode in _BY_WORDS:
        found = _find(store, query.query_str, query.sparse_top_k or k, scope, channels=["bm25"])
    elif mode in _HYBRID:
        weights = _shares(query.alpha)
        vector = query.query_embedding if "dense" in weights else None
        found = _find(store, query.query_str, query.hybrid_top_k or k, scope, vector=vector, channels=weights)
    else:
        found = _find(store, query.query_str, k, scope, vector=query.query_embedding)
    return [node for node, _ in found]


def source_filter(ids: str | Sequence[str]) -> Where:
    """A filter for the nodes of source documents, and for the documents that were added themselves."""
    named = {"$in": id_list(ids)}
    return {"$or": [{REF_DOC_ID: named}, {"$id": named}]}


def _scope(query: VectorStoreQuery) -> _Scope:
    where, rest = translate(query.filters)
    parts = [where]
    if query.doc_ids is not None:
        parts.append(source_filter(query.doc_ids))
    named = set(id_list(query.node_ids or ()))
    if named:  # an index without nodes of its own passes an empty list and means all
        parts.append({"$id": {"$in": with_documents(named)}})

    def accepts(hit: MemoryHit, node: BaseNode) -> bool:
        if named and not named & {node.node_id, hit.id, hit.passage}:
            return False
        return rest is None or rest(hit.metadata)

    return _Scope(all_of(parts), accepts)


def _shares(alpha: float | None) -> dict[str, float]:
    """What each channel counts for: `alpha` the vectors, the rest the words."""
    if alpha is None:
        return {"dense": 1.0, "bm25": 1.0}
    if not 0 <= alpha <= 1:
        raise InvalidInputError(f"alpha is {alpha!r}; expected 0 (words alone) to 1 (vectors alone).")
    return {name: share for name, share in (("dense", float(alpha)), ("bm25", 1 - float(alpha))) if share}


def _find(store: CMTMemoryStore, question: str | None, k: int, scope: _Scope, **settings: Any) -> list[Found]:
    """The best ``k`` nodes; passages of one node are one, with the score of the best."""
    depth = k
    while True:
        hits = store.search(question or None, depth, filter=scope.where, **settings)
        found: dict[str, Found] = {}
        for hit, node in zip(hits, to_nodes(store, hits), strict=True):
            if node.node_id not in found and scope.accepts(hit, node):
                found[node.node_id] = (NodeWithScore(node=node, score=hit.score), hit)
        if len(found) >= k or len(hits) < depth:
            return list(found.values())[:k]
        depth *= _MORE


def _by_mmr(
    store: CMTMemoryStore, query: VectorStoreQuery, scope: _Scope, threshold: float | None, factor: float
) -> list[NodeWithScore]:
    """Near the question, and far from each other (Carbonell, Goldstein, SIGIR 1998), among the nearest."""
    vector = query.query_embedding
    if vector is None:
        if not query.query_str:
            raise InvalidInputError("the query has neither a text nor an embedding.")
        vector = store.embed(query.query_str)[0].tolist()
    many = max(query.similarity_top_k, int(query.similarity_top_k * factor))
    found = _find(store, None, many, scope, vector=vector, channels=["dense"])
    if not found:
        return []
    vectors = store.vectors([hit.passage for _, hit in found])
    scores, places = get_top_k_mmr_embeddings(
        vector,
        vectors.tolist(),
        similarity_top_k=query.similarity_top_k,
        embedding_ids=list(range(len(found))),
        mmr_threshold=threshold,
    )
    return [NodeWithScore(node=found[place][0].node, score=score) for score, place in zip(scores, places, strict=True)]
