"""`cmt-memory store …`: what is in a store, and its upkeep. Only `recompress` and `calibrate` load an LM."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cmt_memory.cli.options import (
    debug_option,
    json_option,
    latent_option,
    model_for_recompress,
    model_option,
    open_store,
    ratio_option,
    resumable,
    store_option,
)
from cmt_memory.cli.output import print_json, size
from cmt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from cmt_memory.bank.bank import MemoryBank
    from cmt_memory.bank.codec import SlotDtype
    from cmt_memory.bank.records import DocumentInfo


@click.group(name="store", short_help="Look into a store and keep it in order.")
def store() -> None:
    """Look into a store and keep it in order: list, show, delete, stats, verify, compact, recompress, calibrate.

    \b
    Example:  cmt-memory store list --store mem
    """


@store.command(name="list")
@store_option()
@click.option("--limit", type=click.IntRange(min=1), help="Show this many at most.  [default: all]")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Skip this many first.")
@json_option
@debug_option
def list_(path: Path, limit: int | None, offset: int, as_json: bool) -> None:
    """List the documents of a store, oldest first.

    \b
    Example:  cmt-memory store list --store mem --limit 20
    """
    with _bank(path) as bank:
        documents, infos = len(bank), bank.infos(bank.ids(limit, offset))
    if as_json:
        print_json([_plain(info) for info in infos])
        return
    rows = [
        (
            f"{info.tokens:,}",
            str(info.passages),
            size(info.bytes),
            size(info.payload_bytes),
            _time(info.updated)[:10],
            info.id,
        )
        for info in infos
    ]
    _print_columns(("tokens", "passages", "text", "memory", "updated", "id"), rows)
    click.echo(f"{len(rows):,} of {documents:,} documents")


@store.command()
@click.argument("id")
@store_option()
@json_option
@debug_option
def show(id: str, path: Path, as_json: bool) -> None:
    """Show one document: its text, metadata and passages.

    \b
    Example:  cmt-memory store show /home/me/notes/shop.md --store mem
    """
    with _bank(path) as bank:
        found = bank.get([id])
        if not found:
            raise InvalidInputError(f"There is no document {id!r} in {path}; `cmt-memory store list` shows the ids.")
        [info] = bank.infos([id])
        names = bank.passage_ids([id])
        rows = bank.passages_by_id(names)
        kept = bank.keep_text
    passages: list[dict[str, Any]] = [
        {"id": name, "span": [row.start, row.end], "tokens": row.n_tokens}
        for name, row in zip(names, rows, strict=True)
    ]
    if as_json:
        text = found[0].text if kept else None
        print_json(_plain(info) | {"text": text, "passages": passages})
        return
    click.echo(f"id        {info.id}")
    click.echo(f"metadata  {json.dumps(info.metadata, ensure_ascii=False)}")
    click.echo(f"size      {info.tokens:,} tokens; text {size(info.bytes)}, memory {size(info.payload_bytes)}")
    click.echo(f"added     {_time(info.created)}, updated {_time(info.updated)}")
    if info.expires is not None:
        click.echo(f"expires   {_time(info.expires)}")
    for passage in passages:
        start, end = passage["span"]
        click.echo(f"passage   {passage['id']}: characters {start:,} to {end:,}, {passage['tokens']:,} tokens")
    click.echo(f"\n{found[0].text}" if kept else "\nThe store keeps no text.")


@store.command(short_help="Delete documents and their memories.")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@store_option()
@json_option
@debug_option
def delete(ids: tuple[str, ...], path: Path, as_json: bool) -> None:
    """Delete documents and their memories; if one id is unknown, nothing is deleted.

    \b
    Example:  cmt-memory store delete /home/me/notes/old.md --store mem
    """
    distinct = list(dict.fromkeys(ids))
    with _bank(path, read_only=False) as bank:
        bank.delete(distinct)
        left = len(bank)
    if as_json:
        print_json({"deleted": distinct, "documents": left})
    else:
        click.echo(f"{path}: {len(distinct):,} deleted, {left:,} left")


@store.command()
@store_option()
@json_option
@debug_option
def stats(path: Path, as_json: bool) -> None:
    """Count documents, memories and bytes, and say what made them.

    \b
    Example:  cmt-memory store stats --store mem
    """
    from cmt_memory.retrieval.encoders import NO_ENCODER

    with _bank(path) as bank:
        found = bank.stats()
        model, encoder = bank.meta("model") or {}, (bank.encoder or {}).get("id", NO_ENCODER)
        found |= {
            "model": model.get("lm"),
            "ratio": None if model.get("encoder") else model.get("ratio"),
            "slots": (model.get("encoder") or {}).get("slots"),
            "latent": model.get("latent"),
            "encoder": None if encoder == NO_ENCODER else encoder,
        }
    if as_json:
        print_json(found)
        return
    documents = found["documents"] or 1
    disk = found["disk_bytes"]
    lines = {
        "documents": f"{found['documents']:,} in {found['passages']:,} passages, {found['tokens']:,} tokens",
        "text": f"{size(found['text_bytes'])}, {size(found['text_bytes'] / documents)} a document",
        "memories": f"{size(found['payload_bytes'])}, {size(found['payload_bytes'] / documents)} a document"
        + (f"; {found['waiting']:,} passages wait for theirs" if found["waiting"] else ""),
        "on disk": f"{size(disk['total'])} (ledger {size(disk['ledger'])}, payloads {size(disk['payloads'])}, "
        f"search index {size(disk['index'])}"
        + (f", of memories {size(disk['memory_index'])})" if disk["memory_index"] else ")"),
        "model": f"{found['model']}, "
        + (f"{found['slots']} slots a passage" if found["slots"] else f"ratio {found['ratio']}")
        + f", latent {found['latent']}",
        "encoder": found["encoder"] or "none, words (BM25) alone",
    }
    for name, value in lines.items():
        click.echo(f"{name:<10}{value}")


@store.command(short_help="Read everything and compare it with its digests.")
@store_option()
@click.option("--read-only", is_flag=True, help="Look beside a process that writes; leaves out the two indexes.")
@json_option
@debug_option
@click.pass_context
def verify(ctx: click.Context, path: Path, read_only: bool, as_json: bool) -> None:
    """Read everything in a store, compare it with its digests, and say what to do about each problem.

    \b
    Example:  cmt-memory store verify --store mem
    Script:   cmt-memory store verify --store mem --json | jq '.problems[].document'

    The exit code is 1 if there are problems. No document is changed; the search index is put right where every
    opening does so.
    """
    with _bank(path, read_only=read_only) as bank:
        report = bank.verify()
    if as_json:
        print_json(asdict(report) | {"ok": report.ok})
    else:
        for problem in report.problems:
            where = f" in {problem.document}" if problem.document is not None else ""
            click.echo(f"{problem.kind}{where}: {problem.message}; {problem.remedy}")
        found = "no problem" if report.ok else f"{len(report.problems):,} problem{'s' * (len(report.problems) != 1)}"
        click.echo(
            f"{path}: {found} in {report.documents:,} documents, {report.passages:,} passages and "
            f"{report.memories:,} memories, {report.seconds:.1f} s"
        )
    if not report.ok:
        ctx.exit(1)


@store.command(short_help="Give the space of deleted documents back.")
@store_option()
@json_option
@debug_option
def compact(path: Path, as_json: bool) -> None:
    """Give the space of deleted documents back; afterwards no file of the store holds their text or vectors.

    \b
    Example:  cmt-memory store compact --store mem

    Also writes the search index, the word index and the counts anew where they are damaged.
    """
    with _bank(path, read_only=False) as bank:
        before = bank.stats()["disk_bytes"]["total"]
        bank.compact()
        after = bank.stats()["disk_bytes"]["total"]
    if as_json:
        print_json({"bytes_before": before, "bytes_after": after})
    else:
        click.echo(f"{path}: {size(before)} before, {size(after)} after")


@store.command(short_help="Make every memory anew, by another LM or ratio.")
@store_option()
@model_option("LM that answers from now on: a hub id, a folder, or cmt-tiny.  [default: the store's own]")
@ratio_option
@latent_option
@click.option(
    "--slot-dtype",
    type=click.Choice(["int8", "float16", "native"]),
    default="int8",
    show_default=True,
    help="How the slots of new memories are kept; lossless ones always keep the LM's own dtype.",
)
@json_option
@debug_option
def recompress(
    path: Path,
    model: str | None,
    ratio: int | None,
    latent: int | Literal["full"] | None,
    slot_dtype: SlotDtype,
    as_json: bool,
) -> None:
    """Make every memory anew from the kept text, by another LM or with another ratio or latent.

    \b
    Example:  cmt-memory store recompress --store mem --model Qwen/Qwen3-0.6B
    Smaller:  cmt-memory store recompress --store mem --ratio 8
    Repair:   cmt-memory store recompress --store mem

    The old memories are used until all new ones are there. If it is interrupted, the same command goes on from
    there. With nothing but --store, only memories that are damaged or missing are made anew.
    """
    done: list[str] = []
    loaded = model_for_recompress(path, model, ratio, latent)
    from cmt_memory.recompression import recompress as make_anew

    with _bank(path, read_only=False) as bank:
        if (model, ratio, latent) == (None, None, None):
            from cmt_memory.opening import settle_model

            loaded = settle_model(bank, loaded)
        settings, documents = {"slot_dtype": slot_dtype}, len(bank)
        with resumable(
            lambda: (
                f"{len(done)} of {documents} documents have new memories, which are kept. "
                "The same command goes on from there."
            )
        ):
            make_anew(bank, loaded, settings=settings, show_progress=sys.stderr.isatty(), on_progress=done.extend)
    config = loaded.config
    if as_json:
        found = {"documents": documents, "recompressed": len(done)}
        print_json(found | {"model": config.lm, "ratio": config.ratio, "latent": config.latent})
    else:
        click.echo(
            f"{path}: {len(done):,} of {documents:,} documents have new memories, by {config.lm}, "
            f"ratio {config.ratio}, latent {config.latent}"
        )


@store.command(short_help="Learn from labelled questions how sure its answers are.")
@store_option()
@click.option(
    "--questions",
    "file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help='JSONL of {"question": "…", "answers": ["…"]}; no answers where no document has one.',
)
@click.option("--k", type=click.IntRange(min=1), default=4, show_default=True, help="Passages to use at most.")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Longest answer, in tokens."
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of the questions that may be read again as text.",
)
@model_option("LM that answers, where it is no longer where the store says.  [default: the store's own]")
@json_option
@debug_option
def calibrate(
    path: Path, file: Path, k: int, max_new_tokens: int, budget: float, model: str | None, as_json: bool
) -> None:
    """Learn from labelled questions what an answer's confidence means in this store, and keep it there.

    \b
    Example:  cmt-memory store calibrate --store mem --questions questions.jsonl
    Then:     cmt-memory ask "Who has the spare key?" --store mem --fallback 0.4

    Some hundreds of questions are needed. The figures printed are of questions that nothing was learned from.
    """
    from cmt_memory.training.readers import Lines

    questions = [value for _, value in Lines(file).objects()]
    with open_store(path, model=model) as opened:
        found = opened.calibrate(
            questions, k=k, max_new_tokens=max_new_tokens, budget=budget, show_progress=sys.stderr.isatty()
        )
    if as_json:
        print_json(found.model_dump())
        return
    fits = {"from memories": found.memory, "from text": found.text, "is there an answer": found.answerable}
    for name, fit in fits.items():
        if fit is not None:
            click.echo(f"{name}: {fit.true:.1%} of {fit.questions:,}, AUROC {fit.auroc:.2f}, off by {fit.ece:.1%}")
    back = "" if found.recovered is None else f", which brings {found.recovered:.0%} of what memories lose back"
    click.echo(f"--fallback {found.fallback:.2f} reads the text for {budget:.0%} of such questions{back}")


@contextmanager
def _bank(path: Path, *, read_only: bool = True) -> Iterator[MemoryBank]:
    from cmt_memory.bank.bank import MemoryBank

    bank = MemoryBank(path, read_only=read_only)
    try:
        yield bank
    finally:
        bank.close()


def _plain(info: DocumentInfo) -> dict[str, Any]:
    times = {"created": info.created, "updated": info.updated, "expires": info.expires}
    return asdict(info) | {name: None if seconds is None else _time(seconds) for name, seconds in times.items()}


def _print_columns(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads) - 1)]
    for row in [heads, *rows] if rows else []:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
