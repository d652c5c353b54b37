"""Seeded generator of synthetic fact documents with questions.

Names and values are split into training and evaluation by a hash of the string, phrasings by hand.
"""

from cmt_memory.training.facts.documents import (
    UNKNOWN,
    FactDocument,
    FactWorld,
    Question,
    SwappedPair,
    SwappedValues,
    sample_document,
    sample_documents,
)

__all__ = [
    "UNKNOWN",
    "FactDocument",
    "FactWorld",
    "Question",
    "SwappedPair",
    "SwappedValues",
    "sample_document",
    "sample_documents",
]
