"""Links that work on a forge and on the site: pages made of the repository's own files, and links to all others."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Set
from pathlib import Path

ROOT = Path(__file__).parents[2]

OUTSIDE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "LICENSE": "project/license.md",
    "cmt_memory/assets/cmt-tiny/lm/README.md": "project/cmt-tiny.md",
    "integrations/langchain-cmt/README.md": "reference/langchain.md",
    "integrations/llama-index-cmt/README.md": "reference/llama-index.md",
}
"""Files of the repository that are pages of the site, by their path in it."""
SOURCES = {page: source for source, page in OUTSIDE.items()}
HOME = "README.md"

_FENCE = r"^(?P<indent>[ \t]*)(?P<fence>```+|~~~+).*?^(?P=indent)(?P=fence)[ \t]*$"
_LINK = r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)"


def prose(pattern: str, replace: Callable[[re.Match[str]], str], markdown: str) -> str:
    """`re.sub` that leaves code blocks and code in lines alone."""
    either = re.compile(rf"{_FENCE}|(?P<found>{pattern})|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", re.M | re.S)
    return either.sub(lambda match: match[0] if match["found"] is None else replace(match), markdown)


def outside_page(source: str) -> str:
    """The Markdown of a page made of a file that lies outside docs/."""
    text = (ROOT / source).read_text("utf-8")
    if source == "LICENSE":
        return f"# Licence\n\n```text\n{text.strip()}\n```\n"
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # a model card's metadata


def rewritten(markdown: str, source: str, page: str, pages: Set[str]) -> str:
    """Point relative links of a text to pages of the site.

    A link to a file of the repository that the site does not have becomes its text.

    Args:
        markdown: the text.
        source: where it lies in the repository; links are relative to that.
        page: the page that it is shown on, relative to docs/.
        pages: every file that the site has, relative to docs/.
    """

    def replaced(found: re.Match[str]) -> str:
        target, _, anchor = found["target"].partition("#")
        if not target or ":" in target or target.startswith("/"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        wanted = "index.md" if path == HOME else OUTSIDE.get(path, path.removeprefix("docs/"))
        if (path.startswith("docs/") or path in OUTSIDE or path == HOME) and wanted in pages:
            relative = os.path.relpath(wanted, posixpath.dirname(page) or ".")
            return f"{found['image']}[{found['text']}]({relative}{'#' + anchor if anchor else ''})"
        if (ROOT / path).exists() and not path.startswith("docs/"):
            return found["text"]
        return found[0]  # MkDocs says that it leads nowhere

    return prose(_LINK, replaced, markdown)
