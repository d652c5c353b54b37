"""What an answer can be made from: memories, the same text, parts of it, or nothing."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cmt_memory.bank.codec import SlotDtype, decode_memory, encode_memory
from cmt_memory.documents import MemoryHit
from cmt_memory.evaluation.extract import Nearest, closest_that_fit, sentences
from cmt_memory.generation.engine import Engine
from cmt_memory.generation.prefixes import PrefixCache
from cmt_memory.generation.prompts import Prompt, question_prompt
from cmt_memory.generation.request import Completion, Row, Settings
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.model.prompt import BLANK_LINE

LM_ARMS: dict[str, str] = {
    "none": "closed book: the LM alone",
    "text": "full text of the retrieved passages in the prompt",
    "oracle_text": "full text of the documents that hold the answer",
    "memory@1": "each retrieved passage encoded alone, uncompressed: what separate encoding costs",
}
"""Arms that have no ratio."""
RATIO_ARMS: dict[str, str] = {
    "memory": "memories of the retrieved passages",
    "shuffled": "memories retrieved for another question, of other documents",
    "swapped": "memories of the pair's other document, in which two values have changed places: what a memory that "
    "forgets the order would score too",
    "oracle_memory": "memories of the documents that hold the answer",
    "truncated": "the retrieved text, cut to as many prefix positions as the memories have",
    "extract": "the retrieved sentences closest to the question, in as many prefix positions",
    "extract_bytes": "the retrieved sentences closest to the question, in as many bytes as the memories have on disk",
}
"""Arms that are measured at every ratio."""
ARMS: dict[str, str] = LM_ARMS | RATIO_ARMS
"""Every arm: its name in files and what it means."""

_MEMORIES_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """A question with what may be put before it, each list most relevant first.

    Attributes:
        question: its words.
        hits: what was retrieved.
        gold: the passages of the documents that hold the answer.
        others: what was retrieved for another question, none of it from documents in `hits` or `gold`.
        partner: the passages of the pair's other document, where documents come in pairs.
    """

    question: str
    hits: tuple[MemoryHit, ...]
    gold: tuple[MemoryHit, ...]
    others: tuple[MemoryHit, ...]
    partner: tuple[MemoryHit, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and what it cost.

    Attributes:
        text: the answer.
        positions: prefix positions before the question, the prompt's head not counted.
        nbytes: of the memories on disk, or of the text.
        used: passages that were used.
        left_out: passages that did not fit into the LM's positions.
        whole: of parts of the text: whether the budget held all of it.
    """

    text: str
    positions: int
    nbytes: int
    used: int
    left_out: int
    whole: bool | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """How every arm is decoded: greedy, with the same words around the question."""

    max_new_tokens: int = 32
    template: bool = True
    question_format: str = "{question}"


class Kept:
    """Memories of texts as a store would keep and load them, and their bytes; made once while there is room.

    Args:
        model: what compresses.
        slot_dtype: how slots are kept; lossless memories keep the LM's own dtype, as in a store.
        max_bytes: of the memories held.
    """

    def __init__(self, model: CMTModel, slot_dtype: SlotDtype, max_bytes: int = _MEMORIES_BYTES) -> None:
        self.slot_dtype: SlotDtype = "native" if model.is_exact else slot_dtype
        self._model, self._max_bytes = model, max_bytes
        self._payloads: OrderedDict[str, bytes] = OrderedDict()

    def get(self, texts: Sequence[str]) -> dict[str, tuple[Memory, int]]:
        """Memory and bytes of each text."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._payloads]
        for text, memory in zip(missing, self._model.compress(missing), strict=True):
            self._payloads[text] = encode_memory(memory.slots, memory.positions, memory.n_tokens, self.slot_dtype)
        found = {}
        for text in dict.fromkeys(texts):
            self._payloads.move_to_end(text)
            found[text] = decode_memory(self._payloads[text]), len(self._payloads[text])
        while len(self._payloads) > 1 and sum(map(len, self._payloads.values())) > self._max_bytes:
            self._payloads.popitem(last=False)
        return found


class Arms:
    """Answers cases in each arm with one model; an arm's prompts and prefixes are all made here.

    Args:
        model: what compresses, at one ratio.
        nearest: what orders sentences for the extracts.
        slot_dtype: how slots are kept.
        decoding: the same for every arm.
    """

    def __init__(
        self, model: CMTModel, nearest: Nearest, slot_dtype: SlotDtype = "int8", decoding: Decoding | None = None
    ) -> None:
        self.model, self.lm = model, model.lm
        self._nearest = nearest
        self._decoding = decoding or Decoding()
        self._settings = Settings(max_new_tokens=self._decoding.max_new_tokens)
        self._engine = Engine(model, PrefixCache(0))
        self._kept = Kept(model, slot_dtype)
        self._blank = self.lm.encode_words(BLANK_LINE)

    def unavailable(self, arm: str) -> str | None:
        """Why this arm cannot be had or says nothing with this model, or None."""
        if arm in ("truncated", "extract", "extract_bytes") and self.model.config.slot_counts()["ratio"] == 1:
            return "at ratio 1 memories have as many positions as the text has tokens, so nothing is cut: see text"
        if arm == "memory@1" and self.model.is_exact:
            return "memories at ratio 1 with the LM's own keys and values are memory@1: see memory"
        return None

    def answer(self, arm: str, cases: Sequence[Case], memory: Sequence[Reply] | None = None) -> list[Reply]:
        """Answer cases in one arm.

        Args:
            arm: a name in `ARMS`; `memory@1` must be asked of a model with uncompressed memories.
            cases: questions that are decoded together.
            memory: replies of the arm `memory` to the same cases, which set the budgets of parts of the text.

        Raises:
            InvalidInputError: a question does not fit into the LM's positions.
        """
        match arm:
            case "none":
                return self._from_memories(cases, [()] * len(cases))
            case "text":
                return self._from_texts(cases, [case.hits for case in cases])
            case "oracle_text":
                return self._from_texts(cases, [case.gold for case in cases])
            case "memory" | "memory@1":
                return self._from_memories(cases, [case.hits for case in cases])
            case "shuffled":
                return self._from_memories(cases, [case.others for case in cases])
            case "swapped":
                return self._from_memories(cases, [case.partner for case in cases])
            case "oracle_memory":
                return self._from_memories(cases, [case.gold for case in cases])
        if memory is None:
            raise ValueError(f"{arm} takes its budget from the replies of the arm memory")
        part: Callable[[Case, Reply], tuple[list[int], bool]] = {
            "truncated": self.truncated,
            "extract": self.extract,
            "extract_bytes": self.extract_bytes,
        }[arm]
        return self._from_ids(cases, [part(case, reply) for case, reply in zip(cases, memory, strict=True)])

    # -- what stands before the question ---------------------------------------------------------------------------

    def truncated(self, case: Case, memory: Reply) -> tuple[list[int], bool]:
        """Token ids of the hits' text, most relevant first, cut to the memory's positions; whether it is whole.

        What is cut still ends in a blank line, as every document does.
        """
        return self._cut([i for hit in case.hits for i in self.lm.encode_document(hit.text)], memory.positions)

    def extract(self, case: Case, memory: Reply) -> tuple[list[int], bool]:
        """Token ids of the closest sentences that fit into the memory's positions; whether they are all of the text.

        Where not even the closest sentence fits, it is cut: an empty control would be none.
        """
        ids, whole = self.truncated(case, memory)
        if whole:
            return ids, True
        candidates, order = self._sentences(case)
        text = closest_that_fit(candidates, order, lambda t: len(self.lm.encode_document(t)) <= memory.positions)
        best = text or (candidates[order[0]] if order else "")
        return self._cut(self.lm.encode_document(best) if best else [], memory.positions)[0], False

    def extract_bytes(self, case: Case, memory: Reply) -> tuple[list[int], bool]:
        """As `extract`, with as many UTF-8 bytes as the memories have on disk, and cut where the LM has no room."""
        if sum(len(hit.text.encode()) for hit in case.hits) <= memory.nbytes:
            return self._cut([i for hit in case.hits for i in self.lm.encode_document(hit.text)], self._room(case))
        candidates, order = self._sentences(case)
        text = closest_that_fit(candidates, order, lambda t: len(t.encode()) <= memory.nbytes)
        if not text and order:
            text = candidates[order[0]].encode()[: memory.nbytes].decode(errors="ignore")
        ids = self.lm.encode_document(text) if text.strip() else []
        return self._cut(ids, self._room(case))[0], False

    def _room(self, case: Case) -> int:
        """Positions of the LM that are left between head and question."""
        prompt = self.prompt(case)
        taken = len(prompt.head_ids) + len(prompt.question_ids) + self._decoding.max_new_tokens
        return sys.maxsize if self.lm.max_positions is None else max(0, self.lm.max_positions - taken)

    def _sentences(self, case: Case) -> tuple[list[str], list[int]]:
        candidates = list(dict.fromkeys(text for hit in case.hits for text in sentences(hit.text)))
        return candidates, self._nearest.order(case.question, candidates)

    def _cut(self, ids: list[int], positions: int) -> tuple[list[int], bool]:
        if len(ids) <= positions:
            return ids, True
        if positions <= len(self._blank):
            return ids[:positions], False
        return [*ids[: positions - len(self._blank)], *self._blank], False

    # -- decoding --------------------------------------------------------------------------------------------------

    def prompt(self, case: Case) -> Prompt:
        """Head, question and tail, the same in every arm."""
        words = self._decoding.question_format.format(question=case.question)
        return question_prompt(self.lm, words, None, template=self._decoding.template)

    def _from_memories(self, cases: Sequence[Case], given: Sequence[Sequence[MemoryHit]]) -> list[Reply]:
        found = self._kept.get([hit.text for hits in given for hit in hits])
        memories = [[found[hit.text] for hit in hits] for hits in given]
        rows = [
            Row(self.prompt(case), tuple(hit.passage for hit in hits), _loader([memory for memory, _ in own]))
            for case, hits, own in zip(cases, given, memories, strict=True)
        ]
        return [
            _reply(done, done.usage.memory_slots, sum(nbytes for _, nbytes in own[: done.memories]))
            for done, own in zip(self._engine.batch(rows, self._settings), memories, strict=True)
        ]

    def _from_texts(self, cases: Sequence[Case], given: Sequence[Sequence[MemoryHit]]) -> list[Reply]:
        rows = [
            Row(self.prompt(case), texts=tuple(hit.text for hit in hits))
            for case, hits in zip(cases, given, strict=True)
        ]
        return [
            _reply(
                done,
                done.usage.prompt_tokens - len(row.prompt.head_ids) - len(row.prompt.question_ids),
                sum(len(hit.text.encode()) for hit in hits[: done.memories]),
            )
            for done, row, hits in zip(self._engine.batch(rows, self._settings), rows, given, strict=True)
        ]

    def _from_ids(self, cases: Sequence[Case], given: Sequence[tuple[list[int], bool]]) -> list[Reply]:
        """Answers after parts of the text, which are given as token ids so that none is gained or lost."""
        rows = []
        for case, (ids, _) in zip(cases, given, strict=True):
            prompt = self.prompt(case)
            rows.append(Row(replace(prompt, head_ids=(*prompt.head_ids, *ids)), texts=()))
        return [
            Reply(
                done.text.strip(),
                len(ids),
                len(str(self.lm.tokenizer.decode(ids)).strip().encode()) if ids else 0,
                len(case.hits),
                0,
                whole,
            )
            for done, (ids, whole), case in zip(self._engine.batch(rows, self._settings), given, cases, strict=True)
        ]


def _loader(memories: Sequence[Memory]) -> Callable[[int, int], list[Memory]]:
    return lambda start, stop: list(memories[start:stop])


def _reply(done: Completion, positions: int, nbytes: int) -> Reply:
    return Reply(done.text.strip(), positions, nbytes, done.memories, done.usage.left_out)
