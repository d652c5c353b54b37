"""Memories made anew from the kept text, by another model or because some are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from safetensors.torch import save as tensors_to_bytes

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import InvalidInputError
from cmt_memory.ingestion import Ingestion, OnProgress
from cmt_memory.model.modeling import CMTModel
from cmt_memory.progress import Progress


def recompress(
    bank: MemoryBank,
    model: CMTModel,
    *,
    settings: dict[str, Any],
    show_progress: bool = False,
    on_progress: OnProgress | None = None,
    lock: AbstractContextManager[Any] | None = None,
    on_adopted: Callable[[], None] | None = None,
) -> None:
    """Make a bank's memories anew; see `CMTMemoryStore.recompress`.

    Args:
        bank: open for writing; which model made its memories does not matter.
        model: what makes the new ones.
        settings: `passage_tokens`, `passage_overlap` and `slot_dtype` of the store.
        show_progress: draw a progress bar.
        on_progress: called after each commit with the ids of its documents.
        lock: held while the new memories take the place of the old and `on_adopted` runs.
        on_adopted: called when the model is the bank's.

    Raises:
        InvalidInputError: the bank keeps no text or is read only, or a passage is longer than the LM can read.
        StoreFullError: the disk has no room for both.
        StoreCorruptError: a kept text is damaged; the message names the document.
        StoreLockedError: others share the folder, with the model of before.
        FingerprintMismatchError: another process makes them anew by another model at the same time.
    """
    if bank.read_only or not bank.keep_text:
        reason = "is open read_only" if bank.read_only else "keeps no text (keep_text=False)"
        raise InvalidInputError(f"The store at {bank.path} {reason}, so its memories cannot be made anew.")
    ingestion = Ingestion(bank, model, None, **settings)
    run = partial(_run, bank, ingestion, show_progress, on_progress)
    stored = bank.meta("model")
    following = bank.next_memories()
    if stored is not None and stored["fingerprint"] == model.fingerprint:
        following.abandon()
        run(sorted({*bank.lacking(), *bank.faulty()}), partial(bank.set_payloads, generation=ingestion.generation))
        return
    following.begin({"fingerprint": model.fingerprint, "slot_dtype": ingestion.slot_dtype})
    config = model.saved_config().model_dump()
    while True:
        if todo := following.lacking():
            run(todo, following.put)
        with lock or nullcontext():
            if following.adopt({"model": config}, {"model": tensors_to_bytes(model.state())}):
                model.hold()
                if on_adopted is not None:
                    on_adopted()
                return


def _run(
    bank: MemoryBank,
    ingestion: Ingestion,
    show_progress: bool,
    on_progress: OnProgress | None,
    todo: Sequence[tuple[int, int, int]],
    put: Callable[[list[tuple[int, bytes]]], None],
) -> None:
    """Make the memories of passages (document, key, tokens), whole documents in a commit."""
    ingestion.check_disk(sum(n_tokens for _, _, n_tokens in todo))
    with Progress("Compressing", sum(n_tokens for _, _, n_tokens in todo), unit="tokens", show=show_progress) as bar:
        for batch in _commits(todo, ingestion.commit_tokens):
            rows = bank.passages([key for _, key, _ in batch])
            if rows:
                documents = list(dict.fromkeys(row.document for row in rows.values()))
                try:
                    payloads = ingestion.encode([row.text for row in rows.values()])
                except InvalidInputError as error:
                    raise InvalidInputError(
                        f"Among {documents[:10]} is a passage that this LM cannot read whole: {error} Add the "
                        "documents to a new store, which cuts them for this LM."
                    ) from error
                put(list(zip(rows, payloads, strict=True)))
                if on_progress is not None:
                    on_progress(documents)
            bar.advance(sum(n_tokens for _, _, n_tokens in batch))


def _commits(todo: Sequence[tuple[int, int, int]], most: int) -> Iterator[list[tuple[int, int, int]]]:
    batch: list[tuple[int, int, int]] = []
    for _, document in groupby(todo, key=itemgetter(0)):
        batch += document
        if sum(n_tokens for _, _, n_tokens in batch) >= most:
            yield batch
            batch = []
    if batch:
        yield batch
