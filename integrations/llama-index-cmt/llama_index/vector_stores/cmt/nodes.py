"""Nodes to documents of a store, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from cmt_memory import CMTMemoryStore, Document, InvalidInputError, MemoryHit
from llama_index.core.schema import BaseNode, MetadataMode, NodeRelationship, ObjectType, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node

NODE = "_node"
"""Metadata key of a node's own fields, besides text and metadata."""
REF_DOC_ID = "ref_doc_id"
"""Metadata key of the document that a node was made of, as filters see it."""


def to_document(node: BaseNode) -> Document:
    """A node as a document of the store; its metadata stays filterable, its other fields are kept under one key.

    Raises:
        InvalidInputError: the metadata holds what is not JSON.
    """
    try:
        fields = node.model_dump(mode="json", exclude={"embedding"})
    except ValueError as error:
        raise InvalidInputError(f"the node {node.node_id!r} cannot be written as JSON: {error}") from error
    metadata = dict(fields.pop("metadata"))
    for text in ("text", "text_resource"):
        fields.pop(text, None)
    shadowed = {key: metadata[key] for key in (NODE, REF_DOC_ID) if key in metadata}
    metadata[NODE] = {"type": node.class_name(), "fields": fields} | ({"shadowed": shadowed} if shadowed else {})
    if node.ref_doc_id is not None:
        metadata[REF_DOC_ID] = node.ref_doc_id
    return Document(node.get_content(metadata_mode=MetadataMode.NONE), metadata, node.node_id)


def to_node(document: Document) -> BaseNode:
    """The node that a document was made of; of one that was added without a node, a text node with its id."""
    own = document.metadata.get(NODE)
    if not _is_kept(own):
        return TextNode(id_=document.id, text=document.text, metadata=document.metadata)
    kept = {key: value for key, value in document.metadata.items() if key not in (NODE, REF_DOC_ID)}
    kept |= own.get("shadowed", {})
    content = json.dumps({**own["fields"], "id_": document.id, "metadata": kept, "embedding": None})
    return metadata_dict_to_node({"_node_content": content, "_node_type": own["type"]}, text=document.text)


def to_nodes(store: CMTMemoryStore, hits: Sequence[MemoryHit]) -> list[BaseNode]:
    """A node for each hit, in order.

    A node that was added as such comes back whole, under its id. A document that was added to the store itself comes
    back whole if it is one passage, else as that passage, under the passage's id and with the document as its source.
    """
    documents = {document.id: document for document in store.get(list(dict.fromkeys(hit.id for hit in hits)))}
    return [_hit_node(store, hit, documents.get(hit.id)) for hit in hits]


def _hit_node(store: CMTMemoryStore, hit: MemoryHit, document: Document | None) -> BaseNode:
    if document is None:  # deleted since it was found
        return to_node(Document(hit.text, hit.metadata, hit.id))
    if _is_kept(document.metadata.get(NODE)) or _is_whole(store, hit, document):
        return to_node(document)
    return TextNode(
        id_=hit.passage,
        text=hit.text,
        metadata=hit.metadata,
        start_char_idx=hit.span[0],
        end_char_idx=hit.span[1],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.id, node_type=ObjectType.DOCUMENT)},
    )


def id_list(ids: str | Iterable[str]) -> list[str]:
    """One id or several, as a list."""
    return [ids] if isinstance(ids, str) else list(ids)


def with_documents(ids: Iterable[str]) -> list[str]:
    """Ids of nodes, and for those that may name a passage the document's."""
    return list(dict.fromkeys(name for id in ids for name in (id, id.rpartition("#")[0]) if name))


def last_of_each(nodes: Iterable[BaseNode]) -> list[BaseNode]:
    """The nodes without those whose id comes again later."""
    return list({node.node_id: node for node in nodes}.values())


def _is_whole(store: CMTMemoryStore, hit: MemoryHit, document: Document) -> bool:
    """Whether a document is one passage."""
    if store.keep_text:
        return document.text.strip() == hit.text.strip()
    return len(store.passages(hit.id)) == 1


def _is_kept(own: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(own, Mapping) and isinstance(own.get("fields"), Mapping) and isinstance(own.get("type"), str)
