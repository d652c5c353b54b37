"""The reference of configuration files, from their JSON schemas."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import results

REFERENCE = Path(__file__).parents[1] / "reference"

Schema = dict[str, Any]


def reference(name: str) -> str:
    """A section for each mapping of a configuration file, `train` or `eval`."""
    schema = json.loads((REFERENCE / f"{name}-config.schema.json").read_text("utf-8"))
    return "\n\n".join(_Page(name, schema).sections())


class _Page:
    """One file's sections, in the order in which keys lead to them."""

    def __init__(self, name: str, schema: Schema) -> None:
        self._name, self._schema = name, schema
        self._places: dict[str, str] = {}

    def sections(self) -> list[str]:
        made = [self._section(self._schema, "")]
        waiting = list(self._places)
        while waiting:
            title = waiting.pop(0)
            known = set(self._places)
            made.append(self._section(self._schema["$defs"][title], self._places[title]))
            waiting += [new for new in self._places if new not in known]
        return made

    def _section(self, schema: Schema, place: str) -> str:
        overall, meanings = _described(schema.get("description", ""))
        required = schema.get("required", [])
        lines = []
        for key, value in schema.get("properties", {}).items():
            path = f"{place}.{key}" if place else key
            about_key = "which kind of data this is." if "const" in value else value.get("description", "–")
            needed = "const" in value or key in required
            holds = self._kind(value, path) + ("<br>required" if needed else _default(value))
            lines.append((f"`{key}`", meanings.get(key, about_key), holds))
        parts = [overall] if overall else []
        if place:
            parts.insert(0, f"### {self._heading(place, schema)} {{ #{self._anchor(schema['title'])} }}")
        return "\n\n".join([*parts, results.rows(("key", "meaning", "value"), lines)])

    def _heading(self, place: str, schema: Schema) -> str:
        kind = schema.get("properties", {}).get("kind", {}).get("const")
        return f"`{place}`" + (f" of kind `{kind}`" if kind else "")

    def _anchor(self, title: str) -> str:
        return f"{self._name}-{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '-', title).lower()}"

    def _kind(self, value: Schema, path: str) -> str:
        """What a key may hold, in words; leads to the section of a mapping."""
        if "$ref" in value:
            title = value["$ref"].rpartition("/")[2]
            self._places.setdefault(title, path)
            schema = self._schema["$defs"][title]
            kind = schema.get("properties", {}).get("kind", {}).get("const")
            return f"[`{kind}`](#{self._anchor(title)})" if kind else f"[mapping](#{self._anchor(title)})"
        if "const" in value:
            return f"`{value['const']}`"
        if "enum" in value:
            return ", ".join(f"`{one}`" for one in value["enum"])
        for either in ("anyOf", "oneOf"):
            if either in value:
                kinds = [self._kind(one, path) for one in value[either]]
                return ("mapping of kind " if "discriminator" in value else "") + " or ".join(dict.fromkeys(kinds))
        if value.get("type") == "array":
            return self._list(value, path)
        if value.get("type") == "object":
            return f"mapping to {self._kind(value.get('additionalProperties', {}), path)}"
        return _scalar(value)

    def _list(self, value: Schema, path: str) -> str:
        if "prefixItems" in value:
            return " and ".join(self._kind(item, path) for item in value["prefixItems"][:1]) + ", twice"
        return f"list of: {self._kind(value['items'], path + '[]')}"


def _scalar(value: Schema) -> str:
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}
    bounds = [
        f"{sign} {value[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in value
    ]
    return " ".join([names[value["type"]], ", ".join(bounds)]).strip()


def _described(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says of the whole, and of each key."""
    about, _, attributes = text.partition("Attributes:\n")
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc(attributes)):
        key, _, meaning = entry.partition(":")
        if meaning:
            meanings[key.strip()] = " ".join(meaning.split())
    return " ".join(about.split("\n")).strip(), meanings


def _default(value: Schema) -> str:
    """What holds where a key is left out; a mapping's own keys say so themselves."""
    default = value.get("default")
    if isinstance(default, dict) and "$ref" in json.dumps(value):
        return ""
    return f"<br>default: `{default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)}`"
