"""What is trained, as one module: a unit goes in, its losses come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.adapted import AdaptedCompressor
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel, length_batches
from cmt_memory.model.prefix import KVPrefix, assemble
from cmt_memory.model.prompt import BLANK_LINE
from cmt_memory.training.config import Objectives, Stage
from cmt_memory.training.objectives import (
    answer_loss,
    distillation_loss,
    importance_loss,
    memory_aware_logits,
    pooled,
    self_matching_loss,
)
from cmt_memory.training.units import AnswerUnit, Row, TextUnit, Unit

REPEAT, CONTINUE = 0, 1
LOSSES = (
    "answer",
    "first_token",
    "distillation",
    "memory_aware",
    "self_matching",
    "importance",
    "reconstruction",
    "continuation",
)
"""Every loss that a unit may have, as logs name them."""


class Learner(nn.Module):
    """Compressor, aggregator and aligner of a model, with the objectives that train them.

    The frozen LM is no part of this module: it has no gradient and is not saved.

    Args:
        model: with a compressor that can be trained.
        objectives: weights of what is minimised.
        batch_tokens: most document tokens that the compressor reads in one pass.
    """

    def __init__(self, model: CMTModel, objectives: Objectives, batch_tokens: int) -> None:
        super().__init__()
        if not model.compressor.trained:
            raise InvalidInputError(f"The compressor {model.compressor.name!r} has nothing to train.")
        model.lm.model.requires_grad_(False)
        model.lm.head()  # kept in the LM's own precision, before any autocast
        self._model = [model]
        self.compressor, self.aggregator, self.aligner = model.compressor, model.aggregator, model.aligner
        self.objectives, self.batch_tokens = objectives, batch_tokens
        like = self._embed(torch.tensor(model.lm.encode_words(BLANK_LINE), device=model.lm.device)).mean(0)
        self.marks = nn.Parameter(like.detach().float().repeat(2, 1))
        """`[2, h]`: stands before a text to be repeated and before one to be continued."""

    @property
    def model(self) -> CMTModel:
        """The model whose parts are trained."""
        return self._model[0]

    def choose(self, stage: Stage) -> None:
        """Train what a stage says; the rest stays as it is."""
        self.requires_grad_(False)
        for parameter in self.compressor.learns(stage.trains == "all"):
            parameter.requires_grad_(True)
        self.aligner.requires_grad_(True)
        self.aggregator.requires_grad_(stage.task == "answers")
        self.marks.requires_grad_(stage.task == "pretrain")

    def chosen(self) -> Iterator[nn.Parameter]:
        """The parameters that are trained now."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def forward(self, unit: Unit) -> dict[str, Tensor]:
        """Losses of a unit by name, and their weighted sum as `loss`."""
        with self.compressor.at(unit.ratio):
            losses = self._text_losses(unit) if isinstance(unit, TextUnit) else self._answer_losses(unit)
        weights = {
            "answer": self.objectives.answer,
            "distillation": self.objectives.distillation.weight,
            "memory_aware": self.objectives.memory_aware.weight,
            "self_matching": self.objectives.self_matching.weight,
            "importance": self.objectives.importance,
            "reconstruction": self.objectives.reconstruction,
            "continuation": self.objectives.continuation,
        }
        # Every trained parameter is in the sum even where no document of a unit used it, as other processes expect.
        unused = torch.stack([parameter.flatten()[0].float() for parameter in self.chosen()]).sum() * 0
        shares = _token_shares(unit) if isinstance(unit, TextUnit) else {}
        weighted = [weights[name] * shares.get(name, 1.0) * loss for name, loss in losses.items() if weights.get(name)]
        total = torch.stack(weighted).sum() if weighted else unused
        return {name: loss.detach() for name, loss in losses.items()} | {"loss": total + unused}

    # -- answers -----------------------------------------------------------------------------------------------

    def _answer_losses(self, unit: AnswerUnit) -> dict[str, Tensor]:
        wanted, rows = self.objectives, unit.rows
        with self._recorded() as shares:
            memories = self.compress(unit.documents)
        targets = self._targets(rows)
        questions: list[Memory] = []
        if wanted.self_matching.weight or self.aggregator.needs_question:
            questions = self.compress([row.question for row in rows])
        logits = self._from_memories(memories, rows, questions)
        losses = {"answer": answer_loss(logits, targets), "first_token": _first_token_loss(logits, targets, rows)}
        if wanted.distillation.weight:
            settings = wanted.distillation
            losses["distillation"] = distillation_loss(
                logits, self.read_text(unit), top_k=settings.top_k, temperature=settings.temperature
            )
        if wanted.memory_aware.weight:
            combined = memory_aware_logits(logits, self._closed_book(rows), wanted.memory_aware.alpha)
            losses["memory_aware"] = answer_loss(combined, targets)
        if shares:
            order = chain.from_iterable(self._batches(unit.documents))
            losses["importance"] = importance_loss(shares, [told_tokens(unit, i).to(shares[0].device) for i in order])
        matched = [number for number, row in enumerate(rows) if row.gold]
        if wanted.self_matching.weight and matched:
            asked = torch.stack([pooled(questions[number].slots) for number in matched])
            found = torch.stack([pooled(memory.slots) for memory in memories])
            own = torch.tensor([rows[number].gold[0] for number in matched], device=found.device)
            losses["self_matching"] = self_matching_loss(asked, found, own, wanted.self_matching.balance)
        return losses

    def answered(self, unit: AnswerUnit) -> Tensor:
        """Cross-entropy of a unit's answers, whatever the objectives are."""
        return answer_loss(self._read_memories(unit), self._targets(unit.rows))

    @torch.no_grad()
    def first_token_losses(self, unit: AnswerUnit) -> dict[str, float]:
        """Cross-entropy of the answers' first tokens with the memories, and by how much those lower it."""
        rows, targets = unit.rows, self._targets(unit.rows)
        loss = float(_first_token_loss(self._read_memories(unit), targets, rows))
        closed = float(_first_token_loss(self._closed_book(rows), targets, rows))
        return {"first_token_loss": loss, "first_token_gain": closed - loss}

    @torch.no_grad()
    def known_by_heart(self, unit: AnswerUnit) -> float:
        """The share of a unit's questions whose answer greedy decoding would write, each token being the likeliest."""
        right = self._read_memories(unit).argmax(-1) == self._targets(unit.rows)
        answers = right.split([len(row.answer) for row in unit.rows])
        return sum(bool(tokens.all()) for tokens in answers) / len(answers)

    def _read_memories(self, unit: AnswerUnit) -> Tensor:
        """Logits `[n, V]` of the answers' tokens after the memories of a unit, made at its ratio."""
        with self.compressor.at(unit.ratio):
            asked = self.compress([row.question for row in unit.rows]) if self.aggregator.needs_question else []
            return self._from_memories(self.compress(unit.documents), unit.rows, asked)

    def _targets(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor([i for row in rows for i in row.answer], device=self.model.lm.device)

    def _from_memories(self, memories: Sequence[Memory], rows: Sequence[Row], questions: Sequence[Memory]) -> Tensor:
        """Logits `[n, V]` of the answers' tokens, each row reading its own memories of a unit."""
        given = [[memories[i] for i in row.documents] for row in rows]
        return self._after(self._prefix(given, rows, questions), rows)

    @torch.no_grad()
    def _closed_book(self, rows: Sequence[Row]) -> Tensor:
        """The same logits without any memory."""
        return self._after(self._prefix([[] for _ in rows], rows, []), rows)

    def compress(self, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """Memories of token ids, in passes of documents of like length, with gradients where they are on."""
        memories: dict[int, Memory] = {}
        for batch in self._batches(documents):
            made = self.compressor.compress(self.model.lm, [documents[i] for i in batch])
            memories.update(zip(batch, made, strict=True))
        return [memories[i] for i in range(len(documents))]

    def _batches(self, documents: Sequence[Sequence[int]]) -> Iterable[Sequence[int]]:
        return length_batches([len(ids) for ids in documents], self.batch_tokens)

    @contextmanager
    def _recorded(self) -> Iterator[list[Tensor]]:
        """How `adapted` hands out slots inside, where that is an objective."""
        if self.objectives.importance and isinstance(self.compressor, AdaptedCompressor):
            with self.compressor.recorded() as shares:
                yield shares
        else:
            yield []

    def _prefix(
        self, memories: Sequence[Sequence[Memory]], rows: Sequence[Row], questions: Sequence[Memory]
    ) -> KVPrefix:
        """The rows' memories as prefixes; rows of the same memories share what it takes to make one."""
        lm = self.model.lm
        reserve = max(len(row.prompt) + len(row.answer) for row in rows)
        asked = questions if self.aggregator.needs_question and questions else [None] * len(rows)
        own = {
            (*map(id, found), id(question)): (found, question) for found, question in zip(memories, asked, strict=True)
        }
        joined = [self.aggregator.aggregate(lm, found, question) if found else None for found, question in own.values()]
        prefix = assemble(lm, self.aligner, joined, reserve=reserve)
        place = {key: at for at, key in enumerate(own)}
        return prefix.rows([place[*map(id, found), id(q)] for found, q in zip(memories, asked, strict=True)])

    def _after(self, prefix: KVPrefix, rows: Sequence[Row]) -> Tensor:
        """Logits `[n, V]` that predict each answer token of each row after a prefix."""
        ids, mask = _right_padded([[*row.prompt, *row.answer[:-1]] for row in rows], self.model.lm.device)
        places = [range(len(row.prompt) - 1, len(row.prompt) + len(row.answer) - 1) for row in rows]
        return self._logits(prefix, places, mask, input_ids=ids)

    def _logits(self, prefix: KVPrefix, places: Sequence[range], mask: Tensor, **tokens: Tensor) -> Tensor:
        """Logits at some places of each row, row after row, of right-padded tokens after a prefix."""
        lm = self.model.lm
        inputs: dict[str, Tensor] = {}
        if lm.takes_positions:
            inputs["position_ids"] = prefix.starts[:, None] + torch.arange(mask.shape[1], device=lm.device)
        with _states_at(lm, places):
            logits: Tensor = lm.model(
                **tokens,
                attention_mask=torch.cat([prefix.mask, mask], dim=1),
                past_key_values=prefix.to_cache(lm),
                use_cache=True,
                **inputs,
            ).logits
        return logits[0]

    @torch.no_grad()
    def read_text(self, unit: AnswerUnit) -> Tensor:
        """Logits `[n, V]` that predict each answer token where the LM reads the documents' text, without adapters."""
        lm = self.model.lm
        head = lm.prompt.head_ids
        sequences = [
            [*head, *(i for place in row.documents for i in unit.documents[place]), *row.prompt, *row.answer[:-1]]
            for row in unit.rows
        ]
        longest = max(map(len, sequences))
        lm.check_fits(longest, "Distillation from the documents' text")
        ids = torch.tensor([[head[-1]] * (longest - len(s)) + s for s in sequences], device=lm.device)
        mask = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences], device=lm.device)
        inputs: dict[str, Tensor] = {}
        if lm.takes_positions:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        with _states_at(lm, [range(longest - len(row.answer), longest) for row in unit.rows]):
            logits: Tensor = lm.model(ids, attention_mask=mask, use_cache=False, **inputs).logits
        return logits[0]

    # -- pretraining -------------------------------------------------------------------------------------------

    def _text_losses(self, unit: TextUnit) -> dict[str, Tensor]:
        """Cross-entropy of texts after `memory, mark`, apart for those repeated and those continued."""
        lm = self.model.lm
        memories = self.compress(unit.documents)
        reserve = 1 + max(map(len, unit.targets))
        prefix = assemble(lm, self.aligner, list(memories), reserve=reserve)
        ids, mask = _right_padded([target[:-1] for target in unit.targets], lm.device)
        kinds = torch.tensor([REPEAT if repeats else CONTINUE for repeats in unit.repeats], device=lm.device)
        words = self._embed(ids)
        embedded = torch.cat([self.marks[kinds][:, None].to(words.dtype), words], dim=1)
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        places = [range(len(target)) for target in unit.targets]
        logits = self._logits(prefix, places, mask, inputs_embeds=embedded)
        targets = torch.tensor([i for target in unit.targets for i in target], device=lm.device)
        kind_of = kinds.repeat_interleave(torch.tensor([len(target) for target in unit.targets], device=lm.device))
        each = F.cross_entropy(logits.float(), targets, reduction="none")
        names = {"reconstruction": REPEAT, "continuation": CONTINUE}
        return {name: each[kind_of == kind].mean() for name, kind in names.items() if (kinds == kind).any()}

    def _embed(self, ids: Tensor) -> Tensor:
        embeddings = self.model.lm.model.get_input_embeddings()
        embedded: Tensor = embeddings(ids)
        return embedded


@contextmanager
def _states_at(lm: FrozenLM, places: Sequence[range]) -> Iterator[None]:
    """Let the LM make logits `[1, n, V]` at some places of each row alone, row after row; a vocabulary is large."""
    rows = torch.tensor([row for row, chosen in enumerate(places) for _ in chosen])
    columns = torch.tensor([column for chosen in places for column in chosen])

    def choose(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows.to(args[0].device), columns.to(args[0].device)][None], *args[1:])

    handle = lm.model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def told_tokens(unit: AnswerUnit, document: int) -> Tensor:
    """Which tokens of a unit's document are those of an answer, `[n]`."""
    where = torch.zeros(len(unit.documents[document]), dtype=torch.bool)
    for place, start, end in (told for row in unit.rows for told in row.told):
        if place == document:
            where[start:end] = True
    return where


def _token_shares(unit: TextUnit) -> dict[str, float]:
    """How much of a unit's targets is repeated and how much continued, so that every token counts alike."""
    repeated = sum(len(target) for target, repeats in zip(unit.targets, unit.repeats, strict=True) if repeats)
    share = repeated / sum(map(len, unit.targets))
    return {"reconstruction": share, "continuation": 1 - share}


def _right_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids `[B, n]` and their mask."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[*s, *[0] * (longest - len(s))] for s in sequences], dtype=torch.long, device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences], dtype=torch.long, device=device)
    return ids.view(len(sequences), longest), mask.view(len(sequences), longest)


def _first_token_loss(logits: Tensor, targets: Tensor, rows: Sequence[Row]) -> Tensor:
    """Cross-entropy of each answer's first token: low overall and high here is a model that cannot begin."""
    with torch.no_grad():
        starts = torch.tensor([0, *(len(row.answer) for row in rows[:-1])], device=logits.device).cumsum(0)
        return F.cross_entropy(logits[starts].float(), targets[starts])
