"""Settings in a YAML file: read, checked, and refused with the path of each wrong key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cmt_memory.errors import CMTError, InvalidInputError

Settings = TypeVar("Settings", bound=BaseModel)


class Strict(BaseModel):
    """Settings that refuse what they do not know and do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def check_rising(name: str, values: tuple[int, int], least: int) -> None:
    """Refuse a range that does not rise from `least` at the lowest.

    Raises:
        ValueError: for pydantic to tell.
    """
    if not least <= values[0] <= values[1]:
        raise ValueError(f"{name} must be two rising numbers of at least {least}, not {list(values)}")


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """Read and check a YAML file.

    Raises:
        InvalidInputError: it is no YAML, or a key or value is wrong; the message names each key's path, what was
            found there and what is allowed.
        CMTError: no YAML reader is installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise CMTError("Reading a YAML file needs PyYAML: pip install 'cmt-memory[train]'.") from error
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInputError(f"{path} must hold keys and values, such as `output: runs/first`.")
    return check_settings(values, str(path), kind)


def check_settings(values: dict[str, Any], name: str, kind: type[Settings]) -> Settings:
    """Settings from plain values; `name` says where they came from.

    Raises:
        InvalidInputError: a key or value is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        places = [problem["loc"] for problem in found]
        # A list with a wrong item counts as too short as well.
        told = [p for p in found if p["type"] != "too_short" or not any(_inside(place, p["loc"]) for place in places)]
        problems = "; ".join(_problem(problem, kind) for problem in told)
        raise InvalidInputError(f"{name}: {problems}.") from error


def _inside(place: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _problem(error: Any, kind: type[BaseModel]) -> str:
    """One of pydantic's errors as `key.path: what is wrong, what is allowed`."""
    place = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        return f"{place} is not a key here; allowed: {', '.join(_allowed(error['loc'][:-1], kind))}"
    if error["type"] == "missing":
        return f"{place} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = "" if isinstance(given, dict | list) else f", not {given!r}"
    return f"{place}: {message[:1].lower()}{message[1:]}{shown}"


def _allowed(path: tuple[int | str, ...], kind: type[BaseModel]) -> list[str]:
    """The keys of the model at a place in the settings."""
    found: list[type[BaseModel]] = [kind]
    for part in path:
        if isinstance(part, int):
            continue
        if len(found) == 1 and part in found[0].model_fields:
            found = _models(found[0].model_fields[part].annotation)
        else:  # a tagged choice names its kind
            found = [model for model in found if part in get_args(model.model_fields["kind"].annotation)]
    return sorted({field.alias or name for model in found for name, field in model.model_fields.items()})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
