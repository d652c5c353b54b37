"""Pages under docs/ as notebooks: everything they show runs, and the output shown is the output produced.

    python -m tests.docs.notebooks docs/tutorials/*.md            # compare
    python -m tests.docs.notebooks --write docs/tutorials/*.md    # put in what is printed now

CONTRIBUTING.md says how a page is written for this.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
COMMANDS = frozenset({"cmt-memory", "python", "cat", "cp", "du", "head", "ls", "mkdir", "rm"})
"""What a line of a shell block may begin with; anything else could install, serve or fetch."""
SHELLS = frozenset({"sh", "bash", "console"})

Kind = Literal["python", "shell", "file", "output"]
_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_DURATION = re.compile(r"\d[\d,]*(?:\.\d+)?(?= ?(?:ms|s|min|h)\b)")


class PageError(Exception):
    """A page that cannot be run, or shows what is not so; the message begins with the place."""


@dataclass(slots=True)
class Block:
    """A piece of a page that is run, written or compared.

    Attributes:
        kind: what is done with it.
        lines: its own lines, without the page's indentation.
        first: index of the first of them in the page.
        indent: spaces before each of them in the page.
        title: the file it is written to.
    """

    kind: Kind
    lines: list[str]
    first: int
    indent: int = 0
    title: str = ""

    @property
    def source(self) -> str:
        """Its text."""
        return "\n".join(self.lines)


@dataclass(slots=True)
class Page:
    """A page and its blocks in order.

    Attributes:
        path: its file.
        lines: its text.
        blocks: what is run, written or compared.
        needs: modules that it needs beside the core.
        python: the version of Python that it was written with, where its output depends on that.
    """

    path: Path
    lines: list[str]
    blocks: list[Block] = field(default_factory=list)
    needs: tuple[str, ...] = ()
    python: str | None = None

    def error(self, line: int, said: str) -> PageError:
        """An error at a line, counted from 0."""
        path = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return PageError(f"{path}:{line + 1}: {said}")


# -- reading -------------------------------------------------------------------------------------------------------


def read_page(path: Path) -> Page:
    """Read a page.

    Raises:
        PageError: a block has no end, no reason for not being run, a command that is not allowed, or an output that
            belongs to nothing.
    """
    text = path.read_text("utf-8")
    page = Page(path, text.split("\n"))
    if front := re.match(r"---\n(.*?)\n---\n", text, re.DOTALL):
        settings = yaml.safe_load(front[1]) or {}
        page.needs, page.python = tuple(settings.get("needs", ())), settings.get("python")
    at = 0
    producer: Block | None = None  # what printed the output that may stand here
    while at < len(page.lines):
        opened = _FENCE.fullmatch(page.lines[at])
        if page.lines[at].rstrip() == "<!-- setup":
            end = _end(page, at, "-->")
            block: Block | None = Block("python", page.lines[at + 1 : end], at + 1)
        elif opened:
            end = _end(page, at, opened["fence"])
            block = _block(page, opened, at, end)
        else:
            producer = None if page.lines[at].strip() else producer
            at += 1
            continue
        if block is not None:
            if block.kind == "output" and producer is None:
                raise page.error(at, "an output stands right below the block that prints it, and that is run")
            page.blocks.append(block)
        at, producer = end + 1, block if block and block.kind in ("python", "shell") else None
    return page


def _end(page: Page, at: int, closing: str) -> int:
    for end in range(at + 1, len(page.lines)):
        if page.lines[end].strip() == closing:
            return end
    raise page.error(at, f"a block that {closing} does not end")


def _block(page: Page, opened: re.Match[str], at: int, end: int) -> Block | None:
    """What a fence stands for; None where nothing is done with it."""
    options = dict(re.findall(r'([\w-]+)="([^"]*)"', opened["info"]))
    names = re.findall(r"[\w-]+", re.sub(r'[\w-]+="[^"]*"', "", opened["info"]))
    indent = len(opened["indent"])
    block = Block("output", [line[indent:] for line in page.lines[at + 1 : end]], at + 1, indent)
    if "no-run" in names:
        if not options.get("reason"):
            raise page.error(at, 'a block that is not run gives its reason: {.python .no-run reason="needs a GPU"}')
        return None
    if "output" in names:
        return block
    if title := options.get("title"):
        block.kind, block.title = "file", title
        return block
    if "python" in names:
        block.kind = "python"
        return block
    if SHELLS & set(names):
        block.kind = "shell"
        _check_commands(page, block)
        return block
    return None


def _check_commands(page: Page, block: Block) -> None:
    block.lines = [line.removeprefix("$ ") for line in block.lines]
    goes_on = False
    for number, line in enumerate(block.lines):
        words = line.split()
        if words and not goes_on and not line.startswith("#") and words[0] not in COMMANDS:
            raise page.error(
                block.first + number,
                f"{words[0]!r} is none of {', '.join(sorted(COMMANDS))}; mark the block .no-run with a reason",
            )
        goes_on = line.endswith("\\")


# -- running -------------------------------------------------------------------------------------------------------


def run_page(page: Page, folder: Path) -> dict[int, str]:
    """Run a page in an empty folder.

    Returns:
        What was printed, by the index of the output that shows it.

    Raises:
        PageError: a block failed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: dict[int, str] = {}
    said = ""
    with contextlib.chdir(folder):
        for number, block in enumerate(page.blocks):
            if block.kind == "output":
                printed[number] = said
            elif block.kind == "file":
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.source + "\n", "utf-8")
            else:
                said = _python(page, block, names) if block.kind == "python" else _shell(page, block)
    return printed


def _python(page: Page, block: Block, names: dict[str, Any]) -> str:
    code = "\n" * block.first + block.source  # so that a traceback names the line of the page
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            exec(compile(code, str(page.path), "exec", dont_inherit=True), names)
        except Exception as error:
            raise page.error(block.first, f"{type(error).__name__}: {error}") from error
    return said.getvalue()


def _shell(page: Page, block: Block) -> str:
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": own, "COLUMNS": "100", "NO_COLOR": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = ["bash", "-euo", "pipefail", "-c", block.source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise page.error(block.first, f"exit code {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


# -- comparing -----------------------------------------------------------------------------------------------------


def trimmed(text: str) -> list[str]:
    """Lines without spaces at their ends and empty lines around them."""
    return [line.rstrip() for line in text.strip("\n").rstrip().split("\n")]


def alike(shown: str, printed: str) -> bool:
    """Whether two outputs are the same, but for how long things took: `12 ms` equals `3.4 ms`."""
    first, second = ([_DURATION.sub("0", line) for line in trimmed(text)] for text in (shown, printed))
    return first == second


def check(page: Page, printed: dict[int, str]) -> None:
    """Compare the outputs that a page shows with what it printed, where it was written with this version of Python.

    Raises:
        PageError: one is another.
    """
    if page.python not in (None, "{}.{}".format(*sys.version_info)):
        return
    for number, said in printed.items():
        block = page.blocks[number]
        if not alike(block.source, said):
            shown, is_now = ("\n".join(trimmed(text)) for text in (block.source, said))
            raise page.error(block.first, f"shown is\n{shown}\n\nbut printed is\n{is_now}\n\n({HOW} writes it)")


HOW = "python -m tests.docs.notebooks --write PAGE"


def write(page: Page, printed: dict[int, str]) -> bool:
    """Put what was printed into a page where it shows something else; returns whether anything changed."""
    lines, changed = list(page.lines), False
    for number in sorted(printed, reverse=True):
        block, said = page.blocks[number], printed[number]
        if not alike(block.source, said):
            new = [" " * block.indent + line if line else "" for line in trimmed(said)]
            lines[block.first : block.first + len(block.lines)] = new
            changed = True
    if changed:
        page.path.write_text("\n".join(lines), "utf-8")
    return changed


def pages(*, needing: bool) -> list[Path]:
    """The pages that have something to run, those that need a framework or those that do not."""
    read = map(read_page, sorted(DOCS.rglob("*.md")))
    return [page.path for page in read if page.blocks and bool(page.needs) == needing]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.notebooks", description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="put what is printed now into the pages")
    given = parser.parse_args()
    wrong = 0
    for path in given.pages:
        try:
            page = read_page(path.resolve())
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                printed = run_page(page, Path(folder))
            done = "written" if given.write and write(page, printed) else "as shown"
            if not given.write:
                check(page, printed)
            print(f"{path}: {done}", flush=True)
        except PageError as error:
            wrong += 1
            print(error, file=sys.stderr, flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
