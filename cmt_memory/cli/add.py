"""`cmt-memory add`: files into a store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from cmt_memory.cli.options import (
    debug_option,
    encoder_option,
    is_store,
    json_option,
    latent_option,
    model_option,
    open_store,
    ratio_option,
    resumable,
    store_option,
    ttl_option,
)
from cmt_memory.cli.output import print_json
from cmt_memory.cli.reading import Reading, origin, read_paths
from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError


@click.command(short_help="Read files and keep their memories in a store.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, path_type=Path))
@store_option(exists=False, help="The store's folder; made if missing.")
@model_option("LM that will answer: a hub id, a folder, or cmt-tiny.  [default: the store's own, else cmt-tiny]")
@ratio_option
@latent_option
@encoder_option
@ttl_option
@json_option
@debug_option
def add(
    paths: tuple[Path, ...],
    path: Path,
    model: str | None,
    ratio: int | None,
    latent: int | Literal["full"] | None,
    encoder: str | None,
    ttl: float | None,
    as_json: bool,
) -> None:
    """Read files, compress each document once, and keep the memories in a store.

    \b
    Example:  cmt-memory add notes/ report.pdf facts.jsonl --store mem
    Own LM:   cmt-memory add notes/ --store mem --model Qwen/Qwen3-0.6B
    For now:  cmt-memory add today.md --store mem --ttl 12h

    Folders are read recursively: text, Markdown and other plain text, Python, PDF (one document a page) and
    JSONL (one document a line, {"text": "…", "id": "…", "metadata": {…}}). Any other file that is UTF-8 text
    can be named itself. Adding an unchanged file again costs nothing; a changed file replaces what it was.
    A file that is gone stays in the store until you delete it there. With --ttl documents are not found any more
    when their time is over, and the next change removes them from the disk; adding a file again sets its time
    anew, without --ttl for ever.

    Model, ratio and latent are chosen when a store is made and stay with it.
    """
    reading = read_paths(paths, outside=path)
    _report_skipped(reading)
    if not reading.documents:
        raise InvalidInputError(f"There is nothing to add under {', '.join(map(str, paths))}.")
    changes, stale, renewed = _compare(path, reading, ttl)
    todo = [d for d, change in zip(reading.documents, changes, strict=True) if change != "same" or d.id in renewed]
    kept: list[str] = []
    settings = (model, ratio, latent, encoder)
    if todo or stale or any(value is not None for value in settings):
        with (
            resumable(
                lambda: (
                    f"{len(kept)} of {len(todo)} documents were added to {path} and are kept. "
                    "The same command goes on from there."
                )
            ),
            open_store(path, model=model, ratio=ratio, latent=latent, encoder=encoder) as store,
        ):
            store.add_documents(todo, show_progress=sys.stderr.isatty(), on_progress=kept.extend, ttl=ttl)
            if stale:
                store.delete(stale)
    _report(path, reading, changes, stale, ttl, as_json)


def _compare(path: Path, reading: Reading, ttl: float | None) -> tuple[list[str], list[str], set[str]]:
    """What adding each document would change, ids that the files no longer give, and those with another time.

    Loads no LM.
    """
    _check_ids(reading.documents)
    if not is_store(path):
        return ["new"] * len(reading.documents), [], set()
    from cmt_memory.bank.bank import MemoryBank

    bank = MemoryBank(path, read_only=True)
    try:
        changes: list[str] = list(bank.compare(reading.documents))
        given, files = {document.id for document in reading.documents}, set(reading.files)
        infos = bank.infos(bank.ids())
        stale = [info.id for info in infos if info.id not in given and origin(info.metadata) in files]
        renewed = {info.id for info in infos if info.id in given and (ttl, info.expires) != (None, None)}
    finally:
        bank.close()
    return changes, stale, renewed


def _check_ids(documents: Sequence[Document]) -> None:
    first: dict[str, Document] = {}
    for document in documents:
        other = first.setdefault(str(document.id), document)
        if other.text != document.text:
            where = sorted({str(origin(other.metadata)), str(origin(document.metadata))})
            raise InvalidInputError(f"The id {document.id!r} is used for two texts, in {' and '.join(where)}.")


def _report_skipped(reading: Reading) -> None:
    for file, reason in reading.skipped.items():
        click.echo(f"skipped {file}: {reason}", err=True)
    if reading.ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in reading.ignored.most_common(8))
        click.echo(f"passed over files of other kinds: {kinds}", err=True)


def _report(
    path: Path, reading: Reading, changes: list[str], stale: list[str], ttl: float | None, as_json: bool
) -> None:
    counts: dict[str, Any] = {
        "store": str(path),
        "files": len(reading.files),
        "added": changes.count("new"),
        "replaced": changes.count("text"),
        "updated": changes.count("metadata"),
        "unchanged": changes.count("same"),
        "removed": len(stale),
        "skipped": len(reading.skipped),
    }
    if as_json:
        ids = [document.id for document in reading.documents]
        print_json(counts | {"ids": ids, "removed_ids": stale, "ttl": ttl})
        return
    outcomes = ("added", "replaced", "updated", "unchanged", "removed")
    said = ", ".join(f"{counts[name]:,} {name}" for name in outcomes if counts[name])
    click.echo(f"{path}: {said} ({len(reading.files):,} file{'s' * (len(reading.files) != 1)} read)")
