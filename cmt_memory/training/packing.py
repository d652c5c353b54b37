"""Batches in which many questions share one reading of their documents.

A row is ``head + documents`` followed by its questions. Each question sees the head, the documents and itself, and its
positions go on right after the documents: what a single-question prompt would compute, with the documents read once.
Rows stand one after the other without padding, and attention works through them in spans that fit a core's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedTokenizerFast

TAIL = "\nAnswer:"
IGNORE = -100
SPAN = 192
"""Tokens of a span, about: a shorter one wastes calls, a longer one computes scores that the mask throws away."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Documents and the questions asked about them, each with its answer."""

    documents: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of an episode: the documents with the head, and ``(prompt, answer)`` of each question."""

    prefix: list[int]
    questions: list[tuple[list[int], list[int]]]

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
        readers: ``[R]`` queries, counted from ``begin``, that predict an answer token found in the documents.
        places: ``[R, upto - shared]``, True where the token that a reader predicts stands as part of its answer.
    """

    shared: int
    upto: int
    begin: int
    end: int
    mask: Tensor
    readers: Tensor
    places: Tensor


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
            replace(s, mask=s.mask.to(device), readers=s.readers.to(device), places=s.places.to(device))
            for s in self.spans
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
    ids = iter(tokenizer(segments, add_special_tokens=False)["input_ids"]) if segments else iter([])
    tail = tokenizer(TAIL, add_special_tokens=False)["input_ids"]
    rows = []
    for episode in episodes:
        prefix = [tokenizer.bos_token_id]
        for _ in episode.documents:
            prefix += next(ids)
        questions = [(next(ids) + tail, [*next(ids), tokenizer.eos_token_id]) for _ in episode.questions]
        rows.append(Row(prefix, questions))
    return rows


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
        for begin in range(start, start + length, SPAN):
            end = min(begin + SPAN, start + length)
            spans.append(_span(start, begin, begin, torch.ones(end - begin, end - begin, dtype=torch.bool).tril()))
        asked_here: list[tuple[list[int], list[int]]] = []
        for prompt, answer in row.questions:
            size, before = len(prompt) + len(answer), len(prompt) - 1
            if asked_here and sum(len(p) + len(a) for p, a in asked_here) + size > SPAN:
                spans.append(_questions_span(start, row.prefix, len(ids), asked_here))
                asked_here = []
            asked_here.append((prompt, answer))
            ids += prompt + answer
            positions += range(length, length + size)
            text += [IGNORE] * size
            answers += [IGNORE] * before + answer + [IGNORE]
            owner += [-1] * before + [asked] * len(answer) + [-1]
            asked += 1
        if asked_here:
            spans.append(_questions_span(start, row.prefix, len(ids), asked_here))
    return Batch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        answers=torch.tensor([answers]),
        text=torch.tensor([text]),
        owner=torch.tensor([owner]),
        spans=tuple(spans),
    )


def _span(shared: int, upto: int, begin: int, mask: Tensor, places: dict[int, list[int]] | None = None) -> Span:
    """Build a span; ``places`` gives for each reader where the token it predicts stands, counted from ``shared``."""
    places = places or {}
    found = torch.zeros(len(places), upto - shared, dtype=torch.bool)
    for row, there in zip(found, places.values(), strict=True):
        row[there] = True
    return Span(shared, upto, begin, begin + len(mask), mask, torch.tensor(list(places), dtype=torch.long), found)


def _questions_span(start: int, prefix: list[int], end: int, asked: list[tuple[list[int], list[int]]]) -> Span:
    """Span the questions that end at ``end``: each sees its documents and itself."""
    blocks: list[Tensor] = []
    places: dict[int, list[int]] = {}
    first = 0
    for prompt, answer in asked:
        size, value = len(prompt) + len(answer), answer[:-1]
        blocks.append(torch.ones(size, size, dtype=torch.bool).tril())
        there = [i for i, token in enumerate(prefix) if token == value[0] and prefix[i : i + len(value)] == value]
        if there:
            places |= {first + len(prompt) - 1 + n: [i + n for i in there] for n in range(len(value))}
        first += size
    return _span(start, start + len(prefix), end - first, torch.block_diag(*blocks).bool(), places)


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
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: tuple[Span, ...], scaling: float) -> Tensor:
        (heads, _, size), groups = query.shape, key.shape[0]
        query = query * scaling
        mixed = torch.empty_like(query)
        weights = []
        for span in spans:
            length = span.end - span.begin
            asked = query[:, span.begin : span.end].reshape(groups, -1, size)
            scores = torch.bmm(asked, _seen(key, span).transpose(1, 2))
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
        return queries.mul_(ctx.scaling), keys, values, None, None


def _seen(states: Tensor, span: Span) -> Tensor:
    own = states[:, span.begin : span.end]
    return torch.cat((states[:, span.shared : span.upto], own), 1) if span.upto > span.shared else own


@dataclass(slots=True)
class Pointing:
    """How far some heads are from looking at what they have to read out.

    Attributes:
        heads: Query heads by layer.
        losses: For each span and layer, the loss of every reader: minus the log of the attention it pays to its places.
    """

    heads: dict[int, tuple[int, ...]]
    losses: list[Tensor] = field(default_factory=list)

    def add(self, layer: int, query: Tensor, key: Tensor, spans: tuple[Span, ...], scaling: float) -> None:
        """Measure the heads of a layer, whose queries and keys are ``[H, T, D]`` and ``[G, T, D]``."""
        heads = self.heads.get(layer, ())
        groups = [head * len(key) // len(query) for head in heads]
        for span in spans if heads else ():
            if not len(span.readers):
                continue
            asked = query[list(heads)][:, span.begin + span.readers].float() * scaling
            scores = torch.bmm(asked, _seen(key[groups], span).float().transpose(1, 2))
            hidden = ~span.mask[span.readers]
            scores[:, :, span.upto - span.shared :].masked_fill_(hidden, -1e4)
            there = scores[:, :, : span.upto - span.shared].masked_fill(~span.places, -1e4)
            self.losses.append((scores.logsumexp(-1) - there.logsumexp(-1)).flatten())

    def mean(self) -> Tensor:
        """Return the mean loss of all readers."""
        return torch.cat(self.losses).mean() if self.losses else torch.zeros(())


def span_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    spans: tuple[Span, ...],
    scaling: float = 1.0,
    pointing: Pointing | None = None,
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

    Returns:
        ``[1, T, H, D]`` and no weights.
    """
    with torch.autocast(query.device.type, enabled=False):
        asked, seen, read = (states[0].to(value.dtype).contiguous() for states in (query, key, value))
        mixed = _SpanAttention.apply(asked, seen, read, spans, scaling)  # type: ignore[no-untyped-call]
        if pointing is not None:
            pointing.add(module.layer_idx, asked, seen, spans, scaling)  # type: ignore[arg-type]
    return mixed.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register("spans", span_attention)
AttentionMaskInterface.register("spans", lambda *_, **__: None)
