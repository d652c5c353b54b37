"""Use what is installed, offline: `python -I installed.py extras|core CODE` in an empty folder; see `release.py`."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from contextlib import redirect_stdout
from importlib.metadata import entry_points
from io import StringIO

from cmt_memory import CMTMemoryStore, MissingIntegrationError
from cmt_memory.adapters import GROUP, Adapters

METHODS = sorted(name for name in vars(Adapters) if name.startswith("as_"))
FRAMEWORKS = ("langchain", "langchain_core", "langgraph", "llama_index", "langchain_cmt")


def main() -> None:
    """Try the extras, or their absence."""
    what, code = sys.argv[1:]
    if what == "extras":
        import langchain_cmt  # noqa: F401
        import llama_index.llms.cmt
        import llama_index.memory.cmt
        import llama_index.response_synthesizers.cmt
        import llama_index.retrievers.cmt
        import llama_index.vector_stores.cmt  # noqa: F401

        check(sorted(point.name for point in entry_points(group=GROUP)) == METHODS, "not every method has its part")
        run_example(code)
        make_parts()
    else:
        run_example(code)
        refuse_parts()
        found = [name for name in FRAMEWORKS if importlib.util.find_spec(name)]
        check(not found, f"the core alone brings {found}")
        check(not set(FRAMEWORKS) & set(sys.modules), "the core alone imports a framework")
    print(f"{what}: works")


def run_example(code: str) -> None:
    """The front page's example; its answer is the code in the document."""
    with redirect_stdout(StringIO()) as printed:
        names = runpy.run_path(code)
    names["store"].close()
    print("README.md:", printed.getvalue().strip())
    check(printed.getvalue().strip() == "4471", "the example of README.md answers something else")


def make_parts() -> None:
    """Every method of a store gives a part of the framework that its integration is for."""
    with CMTMemoryStore("mem") as store:
        for name in METHODS:
            made = type(getattr(store, name)())
            print(f"{name}: {made.__module__}.{made.__qualname__}")
            check(made.__module__.startswith(("langchain_cmt.", "llama_index.")), f"{name} gives another's part")


def refuse_parts() -> None:
    """Every method of a store names the extra to install."""
    with CMTMemoryStore("mem") as store:
        for name in METHODS:
            try:
                getattr(store, name)()
            except MissingIntegrationError as error:
                print(error)
                check("pip install 'cmt-memory[" in str(error), f"{name} does not name the extra")
                check(f"[{extra(name)}]" in str(error), f"{name} names another extra")
            else:
                sys.exit(f"{name} works without its integration")


def extra(method: str) -> str:
    """The extra that brings a method's part."""
    return "llama-index" if method in ("as_llama_index_retriever", "as_query_engine") else "langchain"


def check(true: bool, otherwise: str) -> None:
    """End with an error unless something is true."""
    if not true:
        sys.exit(otherwise)


if __name__ == "__main__":
    main()
