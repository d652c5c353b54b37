"""Batches in which many questions share one reading of their documents.

A row is ``head + documents`` followed by its questions. Each question sees the head, the documents and itself, and its
positions go on right after the documents: what a single-question prompt would compute, with the documents read once.
Rows stand one after the other without padding, and attention works through them in spans that fit a core's cache.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedTokenizerFast

from cmt_memory.training.facts.rendering import Statement

TAIL = "\nAnswer:"
IGNORE = -100
SPAN = 192
"""Tokens of a span, about: a shorter one wastes calls, a longer one computes scores that the mask throws away."""


Sight = Literal["answer", "name", "asked", "told_value", "told_name"]
"""What a position should look at.

A position that predicts an answer's token looks at where it stands (``answer``; ``name`` for the first token of an
answer which is the name of a value's owner). It may as well look at a later part of the statement, which is where the
statement is known to be the one asked for if the name follows the value; there the first token of the value can be
read because every position of a statement looks at it (``told_value``), and at its owner's name (``told_name``).
What it has to find is what the question names (``asked``).
"""
SIGHTS: tuple[Sight, ...] = get_args(Sight)


@dataclass(frozen=True, slots=True)
class Episode:
    """Documents, the questions asked about them, each with its answer, and what each document tells where."""

    documents: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    statements: tuple[tuple[Statement, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """A statement in tokens of a row: where its value begins, where it ends, from where and by what its owner is known.

    ``end`` is the first token after the one that ends the statement.
    """

    value: int
    end: int
    named: int
    names: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """What a question's first answer token is, where the statements that give it can be read, and what it names.

    ``asked`` is the token of the question at which it names the owner of a value, or the value of an owner.
    """

    sight: Sight = "answer"
    places: tuple[int, ...] = ()
    asked: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of an episode: the documents with the head, and ``(prompt, answer)`` of each question.

    Attributes:
        prefix: Head and documents.
        questions: Prompt and answer of each question.
        told: The statements of the documents.
        sources: What is known of each question.
    """

    prefix: list[int]
    questions: list[tuple[list[int], list[int]]]
    told: tuple[Told, ...]
    sources: list[Source]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(prompt) + len(answer) for prompt, answer in self.questions)


@dataclass(frozen=True, slots=True)
class Span:
    """Queries ``begin:end`` that all see the keys ``shared:upto`` and of themselves what ``mask`` allows.

    Attributes:
        shared: First key every query sees.
        upto: End of those keys.
        begin: First query.
        end: End of the queries.
        mask: ``[end - begin, end - begin]``, True where a query (row) sees a key (column) of the span itself.
        sights: For each sight, ``[R]`` queries, counted from ``begin``, and ``[R, upto - shared + end - begin]``, True
            where such a query should look.
        asks: Whether these are questions, which see documents.
    """

    shared: int
    upto: int
    begin: int
    end: int
    mask: Tensor
    sights: dict[Sight, tuple[Tensor, Tensor]]
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows, one after the other.

    Attributes:
        input_ids: ``[1, T]``.
        position_ids: ``[1, T]``.
        answers: ``[1, T]`` answer token to predict at each position, else -100.
        text: ``[1, T]`` document token to predict at each position, else -100.
        owner: ``[1, T]`` index of the question over the batch at answer positions, else -1.
        spans: What attends to what.
    """

    input_ids: Tensor
    position_ids: Tensor
    answers: Tensor
    text: Tensor
    owner: Tensor
    spans: tuple[Span, ...]

    def to(self, device: torch.device) -> Batch:
        """Move the batch to a device."""
        spans = tuple(
            replace(
                span,
                mask=span.mask.to(device),
                sights={k: (queries.to(device), places.to(device)) for k, (queries, places) in span.sights.items()},
            )
            for span in self.spans
        )
        ids, positions, answers, text, owner = (
            t.to(device) for t in (self.input_ids, self.position_ids, self.answers, self.text, self.owner)
        )
        return Batch(ids, positions, answers, text, owner, spans)


def encode(tokenizer: PreTrainedTokenizerFast, episodes: Sequence[Episode]) -> list[Row]:
    """Tokenise episodes, every segment apart, as the library builds its prompts."""
    segments: list[str] = []
    for episode in episodes:
        segments += [f"{text}\n\n" for text in episode.documents]
        for question, answer in episode.questions:
            segments += [question, answer]
    if not segments:
        return [Row([tokenizer.bos_token_id], [], (), []) for _ in episodes]
    encoded = tokenizer(segments, add_special_tokens=False, return_offsets_mapping=True)
    parts = iter(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    tail = tokenizer(TAIL, add_special_tokens=False)["input_ids"]
    rows = []
    for episode in episodes:
        prefix = [tokenizer.bos_token_id]
        statements: list[tuple[Statement, Told]] = []
        for number in range(len(episode.documents)):
            ids, offsets = next(parts)
            for statement in episode.statements[number] if episode.statements else ():
                statements.append((statement, _told(statement, [end for _, end in offsets], len(prefix))))
            prefix += ids
        questions: list[tuple[list[int], list[int]]] = []
        sources: list[Source] = []
        for question, answer in episode.questions:
            ids, offsets = next(parts)
            questions.append((ids + tail, [*next(parts)[0], tokenizer.eos_token_id]))
            sources.append(_source(question, answer, statements, [end for _, end in offsets]))
        rows.append(Row(prefix, questions, tuple(told for _, told in statements), sources))
    return rows


def _told(statement: Statement, ends: list[int], first: int) -> Told:
    """Find a statement's tokens in a document whose tokens end at ``ends`` and begin the row's ``first``."""

    def token(place: int) -> int:
        return first + bisect_right(ends, place)

    return Told(
        value=token(statement.value_at),
        end=min(token(statement.end - 1) + 2, first + len(ends)),
        named=token(statement.name_from),
        names=tuple(token(place) for place in statement.names_at),
    )


def _source(question: str, answer: str, statements: Sequence[tuple[Statement, Told]], ends: Sequence[int]) -> Source:
    """Tell what is known of a question whose tokens end at ``ends``."""
    asked, wanted = question.lower(), answer.lower()
    found = [(said, told) for said, told in statements if said.value.lower() == wanted]
    if found:
        places = tuple(place for _, told in found for place in range(told.value, told.end))
        name = found[0][0].name.lower()
        named = next((at for words in (name, name.split(" ")[0]) if words and (at := asked.find(words)) >= 0), None)
        return Source("answer", places, None if named is None else bisect_right(ends, named))
    found = [(said, told) for said, told in statements if said.name.lower() == wanted and said.value.lower() in asked]
    if found:
        places = tuple(p for _, told in found if told.names for p in range(max(told.value, told.named), told.end))
        return Source("name", places, bisect_right(ends, asked.find(found[0][0].value.lower())))
    return Source()


def collate(rows: Sequence[Row]) -> Batch:
    """Pack rows into one batch."""
    ids: list[int] = []
    positions: list[int] = []
    answers: list[int] = []
    text: list[int] = []
    owner: list[int] = []
    spans: list[Span] = []
    asked = 0
    for row in rows:
        start, length = len(ids), len(row.prefix)
        ids += row.prefix
        positions += range(length)
        text += [*row.prefix[1:], IGNORE]
        answers += [IGNORE] * length
        owner += [-1] * length
        spans += [_document_span(row, start, begin, min(begin + SPAN, length)) for begin in range(0, length, SPAN)]
        first = 0
        for number, (prompt, answer) in enumerate(row.questions):
            size, before = len(prompt) + len(answer), len(prompt) - 1
            if first < number and sum(len(p) + len(a) for p, a in row.questions[first:number]) + size > SPAN:
                spans.append(_questions_span(row, start, len(ids), range(first, number)))
                first = number
            ids += prompt + answer
            positions += range(length, length + size)
            text += [IGNORE] * size
            answers += [IGNORE] * before + answer + [IGNORE]
            owner += [-1] * before + [asked] * len(answer) + [-1]
            asked += 1
        if row.questions:
            spans.append(_questions_span(row, start, len(ids), range(first, len(row.questions))))
    return Batch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        answers=torch.tensor([answers]),
        text=torch.tensor([text]),
        owner=torch.tensor([owner]),
        spans=tuple(spans),
    )


def _span(start: int, upto: int, begin: int, mask: Tensor, seen: dict[Sight, dict[int, Iterable[int]]]) -> Span:
    """Build a span; ``seen`` gives for each sight and query, from ``begin``, the keys to look at, from ``start``."""
    sights: dict[Sight, tuple[Tensor, Tensor]] = {}
    for sight, places in seen.items():
        if places:
            there = torch.zeros(len(places), upto - start + len(mask), dtype=torch.bool)
            cells = [(row, place) for row, of_query in enumerate(places.values()) for place in of_query]
            there[tuple(torch.tensor(cells).T)] = True
            sights[sight] = (torch.tensor(list(places)), there)
    return Span(start, upto, begin, begin + len(mask), mask, sights)


def _document_span(row: Row, start: int, begin: int, end: int) -> Span:
    """Span the tokens ``begin:end`` of a row's documents, which see those before."""
    values: dict[int, Iterable[int]] = {}
    names: dict[int, Iterable[int]] = {}
    for told in row.told:
        for place in range(max(told.value, begin), min(told.end, end)):
            values.setdefault(place - begin, (told.value,))
        for place in range(max(told.named, begin), min(told.end, end)):
            known = [name for name in told.names if name <= place]
            if known:
                names.setdefault(place - begin, known)
    mask = torch.ones(end - begin, end - begin, dtype=torch.bool).tril()
    return _span(start, start + begin, start + begin, mask, {"told_value": values, "told_name": names})


def _questions_span(row: Row, start: int, end: int, numbers: range) -> Span:
    """Span the questions that end at ``end``: each sees its documents and itself."""
    prefix, first = row.prefix, 0
    blocks: list[Tensor] = []
    seen: dict[Sight, dict[int, Iterable[int]]] = {"answer": {}, "name": {}, "asked": {}}
    for number in numbers:
        (prompt, answer), source = row.questions[number], row.sources[number]
        size, value = len(prompt) + len(answer), answer[:-1]
        blocks.append(torch.ones(size, size, dtype=torch.bool).tril())
        there = [i for i, token in enumerate(prefix) if token == value[0] and prefix[i : i + len(value)] == value]
        if there:
            reader = first + len(prompt) - 1
            seen[source.sight][reader] = [*there, *source.places]
            if source.asked is not None:
                seen["asked"][reader] = [len(prefix) + first + source.asked]
            seen["answer"] |= {reader + n: [i + n for i in there] for n in range(1, len(value))}
        first += size
    return replace(_span(start, start + len(prefix), end - first, torch.block_diag(*blocks).bool(), seen), asks=True)


def bucket(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Group rows in their order into batches of at most ``tokens`` tokens."""
    groups: list[list[Row]] = []
    size = tokens
    for row in rows:
        if groups and size + len(row) <= tokens:
            groups[-1].append(row)
            size += len(row)
        else:
            groups.append([row])
            size = len(row)
    return groups


class _SpanAttention(torch.autograd.Function):
    """Attention over spans, ``[H, T, D]`` queries on ``[G, T, D]`` keys and values, G dividing H."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        spans: tuple[Span, ...],
        scaling: float,
        dropped: Sequence[Tensor | None],
    ) -> Tensor:
        (heads, _, size), groups = query.shape, key.shape[0]
        query = query * scaling
        mixed = torch.empty_like(query)
        weights = []
        for span, unseen in zip(spans, dropped, strict=True):
            length = span.end - span.begin
            asked = query[:, span.begin : span.end].reshape(groups, -1, size)
            scores = torch.bmm(asked, _seen(key, span).transpose(1, 2))
            if unseen is not None:
                scores[:, :, : unseen.shape[1]].masked_fill_(unseen[:, None], -1e4)
            bias = torch.zeros(length, length, dtype=query.dtype, device=query.device).masked_fill_(~span.mask, -1e4)
            scores.view(heads, length, -1)[:, :, -length:].add_(bias)
            weights.append(scores.softmax(-1))
            mixed[:, span.begin : span.end] = torch.bmm(weights[-1], _seen(value, span)).view(heads, length, size)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.spans, ctx.scaling = spans, scaling
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        (heads, _, size), groups = query.shape, key.shape[0]
        queries, keys, values = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for span, weight in zip(ctx.spans, weights, strict=True):
            length, shared = span.end - span.begin, span.upto - span.shared
            asked = query[:, span.begin : span.end].reshape(groups, -1, size)
            given = gradient[:, span.begin : span.end].reshape(groups, -1, size)
            of_weights = torch.bmm(given, _seen(value, span).transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weights, weight, -1, weight.dtype)
            queries[:, span.begin : span.end] = torch.bmm(of_scores, _seen(key, span)).view(heads, length, size)
            for whole, part in (
                (keys, torch.bmm(of_scores.transpose(1, 2), asked)),
                (values, torch.bmm(weight.transpose(1, 2), given)),
            ):
                whole[:, span.shared : span.upto] += part[:, :shared]
                whole[:, span.begin : span.end] += part[:, shared:]
        return queries.mul_(ctx.scaling), keys, values, None, None, None


def _seen(states: Tensor, span: Span) -> Tensor:
    own = states[:, span.begin : span.end]
    return torch.cat((states[:, span.shared : span.upto], own), 1) if span.upto > span.shared else own


_LEAST_PAID = 1e-30
"""Attention below which a pointing head learns nothing from a place: its logarithm must stay finite."""


@dataclass(slots=True)
class Pointing:
    """How far some heads are from looking where they should.

    Attributes:
        heads: Query heads by layer for each sight.
        losses: For each sight, span and layer, the loss of every head and query: minus the log of the attention paid to
            the places it should look at.
    """

    heads: dict[Sight, dict[int, tuple[int, ...]]]
    losses: dict[Sight, list[Tensor]] = field(default_factory=dict)

    def add(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        spans: tuple[Span, ...],
        scaling: float,
        dropped: Sequence[Tensor | None],
    ) -> None:
        """Measure the heads of a layer, whose queries and keys are ``[H, T, D]`` and ``[G, T, D]``."""
        for sight, layers in self.heads.items():
            heads = layers.get(layer, ())
            groups = [head * len(key) // len(query) for head in heads]
            for span, unseen in zip(spans, dropped, strict=True) if heads else ():
                if sight not in span.sights:
                    continue
                queries, places = span.sights[sight]
                asked = query[list(heads)][:, span.begin + queries].float() * scaling
                scores = torch.bmm(asked, _seen(key[groups], span).float().transpose(1, 2))
                scores[:, :, span.upto - span.shared :].masked_fill_(~span.mask[queries], -1e4)
                if unseen is not None:
                    own, size = unseen[groups][:, None], unseen.shape[1]
                    scores[:, :, :size].masked_fill_(own, -1e4)
                    places = places.expand(len(heads), -1, -1).clone()
                    places[:, :, :size] &= ~own
                    places[:, :, 0] |= ~places.any(-1)
                paid = (scores.softmax(-1) * places).sum(-1)
                self.losses.setdefault(sight, []).append(-paid.clamp(min=_LEAST_PAID).log().flatten())

    def means(self) -> dict[Sight, Tensor]:
        """Return the mean loss of each sight that was met."""
        return {sight: torch.cat(losses).mean() for sight, losses in self.losses.items()}


def draw_drops(spans: Sequence[Span], most: float, chance: float = 1.0) -> list[float]:
    """Choose the spans of questions in which keys are dropped, each with ``chance``.

    Returns:
        For each span the largest share of keys that a head may not see; 0 for the others.
    """
    return [most if span.asks and float(torch.rand(())) < chance else 0.0 for span in spans]


def drop_keys(spans: Sequence[Span], groups: int, most: Sequence[float]) -> list[Tensor | None]:
    """Hide document tokens from key/value heads, in each span a share of up to ``most``.

    What a head may not see it has to do without: it looks at the row's first token, and the others do its work
    (DropKey, arXiv 2208.02646, for each head apart).
    """
    return [
        _dropped(span.upto - span.shared, groups, share * float(torch.rand(())), span.mask.device) if share else None
        for span, share in zip(spans, most, strict=True)
    ]


def _dropped(keys: int, groups: int, share: float, device: torch.device) -> Tensor:
    unseen = torch.rand(groups, keys, device=device) < share
    unseen[:, 0] = False
    return unseen


def span_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    spans: tuple[Span, ...],
    scaling: float = 1.0,
    pointing: Pointing | None = None,
    drop_key: Sequence[float] = (),
    **_: object,
) -> tuple[Tensor, None]:
    """Attend span by span: on a CPU less than half the time of whole matrices with a mask.

    Args:
        module: The layer that calls.
        query: ``[1, H, T, D]``.
        key: ``[1, G, T, D]``, G dividing H.
        value: ``[1, G, T, D]``.
        attention_mask: Not used.
        spans: What attends to what.
        scaling: Factor of the scores.
        pointing: Heads to measure on the way.
        drop_key: For each span the most document tokens, as a share, that are hidden from a key/value head.

    Returns:
        ``[1, T, H, D]`` and no weights.
    """
    with torch.autocast(query.device.type, enabled=False):
        asked, seen, read = (states[0].to(value.dtype).contiguous() for states in (query, key, value))
        unseen = drop_keys(spans, len(seen), drop_key) if drop_key else [None] * len(spans)
        mixed = _SpanAttention.apply(asked, seen, read, spans, scaling, unseen)  # type: ignore[no-untyped-call]
        if pointing is not None:
            pointing.add(module.layer_idx, asked, seen, spans, scaling, unseen)  # type: ignore[arg-type]
    return mixed.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register("spans", span_attention)
AttentionMaskInterface.register("spans", lambda *_, **__: None)
