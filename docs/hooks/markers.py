"""What MkDocs calls: pages made of the repository's files, markers in pages, and drawings.

A marker such as `{{ table("latency") }}` is replaced by what the function of that name below makes of the
committed results, schemas and code. `value` may stand in a sentence, the others stand on a line of their own.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import errors_page
import evaluated
import links
import measured
import plots
import results
import schemas
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

FIGURES = links.ROOT / "docs" / "figures"
_MARKER = r"(?P<before>^[ \t]*)?\{\{ (?P<call>\w+\([^\n]*?\)) \}\}"


def figure(name: str) -> str:
    """A drawing of docs/figures/, or a plot of committed results."""
    drawn = FIGURES / f"{name}.svg"
    if drawn.is_file():
        return _placed(name, html.escape(_title(drawn)))
    plot = plots.find(name)
    if not plot.there():
        return results.absent(plot.stems)
    return _placed(name, f"{html.escape(plot.caption)} {results.origin_html(plot.stems)}")


def _placed(name: str, caption: str) -> str:
    return (
        f'<figure class="drawing"><div data-figure="{html.escape(name)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _title(drawing: Path) -> str:
    return html.unescape(re.search(r"<title>(.*?)</title>", drawing.read_text("utf-8"), re.S)[1])  # type: ignore[index]


def table(name: str) -> str:
    """A table of committed results."""
    if name.startswith("eval/"):
        return evaluated.table(name.removeprefix("eval/"))
    return measured.table(name)


def readme() -> str:
    """The front page of the repository."""
    text = (links.ROOT / links.HOME).read_text("utf-8")
    drawings = r"!\[[^\]]*\]\(docs/figures/(?P<name>[\w-]+)\.svg\)"
    return re.sub(drawings, lambda found: figure(found["name"]), text)


MARKERS: dict[str, Callable[..., str]] = {
    "commands": commands.reference,
    "errors": errors_page.reference,
    "figure": figure,
    "readme": readme,
    "schema": schemas.reference,
    "table": table,
    "value": results.value,
}


def replaced(markdown: str) -> str:
    """A page with every marker replaced.

    Raises:
        PluginError: a marker, its arguments or a figure it names is unknown.
    """
    told = set()

    def made(found: re.Match[str]) -> str:
        text = _called(found["call"])
        if text.startswith("!!!") and text in told:
            return ""  # what was not measured is said once a page
        told.add(text)
        return textwrap.indent(text, found["before"] or "")

    return links.prose(_MARKER, made, markdown)


def _called(marker: str) -> str:
    try:
        call = ast.parse(marker, mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        arguments = [ast.literal_eval(node) for node in call.args]
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return MARKERS[call.func.id](*arguments, **named)
    except (SyntaxError, ValueError, AssertionError) as error:
        raise PluginError(f"The marker {marker} cannot be read: {error}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise PluginError(f"The marker {marker} names something that is not there: {error}") from error


# -- what MkDocs calls ---------------------------------------------------------------------------------------------


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are files of the repository outside docs/."""
    for page, source in links.SOURCES.items():
        files.append(File.generated(config, page, content=links.outside_page(source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replace markers and point links to pages of the site."""
    uri = page.file.src_uri
    source = links.SOURCES.get(uri, f"docs/{uri}")
    pages = {file.src_uri for file in files}
    if uri == "index.md":
        markdown, source = replaced(markdown), links.HOME
    elif uri not in links.SOURCES:
        markdown = replaced(markdown)
    return links.rewritten(markdown, source, uri, pages)


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Put the drawings in, after the page's words went to the search index."""
    return re.sub(r'<div data-figure="([^"]+)"></div>', lambda found: _svg(html.unescape(found[1])), output)


def _svg(name: str) -> str:
    drawn = FIGURES / f"{name}.svg"
    if not drawn.is_file():
        return plots.find(name).svg()
    text = re.sub(r"<style>.*?</style>", "", drawn.read_text("utf-8"), flags=re.S)
    return text[text.index("<svg") :]


def on_config(config: Any) -> Any:
    """Watch what pages are made of while serving."""
    config.watch += [str(links.ROOT / name) for name in ("README.md", "CHANGELOG.md", "benchmarks/results")]
    return config
