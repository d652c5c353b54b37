"""Further phrasings of attributes, for training alone: kept in ``wordings.json``, none of them a held-out one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from cmt_memory.training.facts.phrasings import Attribute


def reworded(entity: str, attributes: Sequence[Attribute]) -> tuple[Attribute, ...]:
    """Give attributes of a kind of entity their further phrasings.

    Raises:
        ValueError: If the file does not have them, in their order.
    """
    entries = _read()[entity]
    if [entry["of"] for entry in entries] != [(*attribute.nouns, *attribute.says)[0] for attribute in attributes]:
        raise ValueError(f"wordings.json does not list the attributes of a {entity} in their order.")
    return tuple(
        replace(
            attribute,
            more_says=tuple(entry["more_says"]),
            more_asks=tuple(entry["more_asks"]),
            more_backward=tuple(entry["more_backward"]),
        )
        for attribute, entry in zip(attributes, entries, strict=True)
    )


@cache
def _read() -> dict[str, list[dict[str, Any]]]:
    text = files("cmt_memory.training.facts").joinpath("wordings.json").read_text(encoding="utf-8")
    entries: dict[str, list[dict[str, Any]]] = json.loads(text)
    return entries
