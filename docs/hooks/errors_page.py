"""The reference of errors: every class of `cmt_memory.errors`, from its docstring."""

from __future__ import annotations

import inspect

import results

from cmt_memory import errors


def classes() -> list[type[Exception]]:
    """The errors, in the order of the module."""
    found = [thing for thing in vars(errors).values() if inspect.isclass(thing) and issubclass(thing, errors.CMTError)]
    return [one for one in found if one.__module__ == errors.__name__]


def reference() -> str:
    """A table of all errors, then each with when it is raised and what to do."""
    lines = []
    for one in classes():
        others = [f"`{base.__name__}`" for base in one.__bases__ if base not in (Exception, errors.CMTError)]
        name = f"[`{one.__name__}`][cmt_memory.errors.{one.__name__}]"
        lines.append((name, _summary(one), ", ".join(others) or "–"))
    overview = results.rows(("error", "when", "also a"), lines)
    each = [f"::: cmt_memory.errors.{one.__name__}" for one in classes()]
    return "\n\n".join([overview, *each])


def _summary(one: type[Exception]) -> str:
    return inspect.getdoc(one).partition("\n\n")[0].replace("\n", " ")  # type: ignore[union-attr]
