"""The byte-level BPE tokenizer of the bundled LM.

A word is spelled alike at the start of a text, after a newline, a bracket or a quotation mark, and in mid-sentence: a
space is put before it when the text is encoded and taken away, exactly, when it is decoded. Digits stand in pairs from
the left, the capitals of codes alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
_OPENING = ("(", "[", '"', "`", "*", "=")
_WORDS = (
    r" ?\p{N}{1,2}| ?\p{Lu}?[\p{Ll}\p{Lm}\p{Lo}][\p{Ll}\p{Lm}\p{Lo}\p{M}]*| ?\p{Lu}|\n+"
    r"| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ message['content'] + '\\nAnswer:' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer.

    Args:
        texts: Text to learn merges from.
        vocabulary: Number of tokens with the three special ones.

    Returns:
        A tokenizer that adds no BOS by itself and whose chat template renders the prompt of the library.
    """
    tokenizer = Tokenizer(models.BPE())
    spaced = [normalizers.Replace(char, char + " ") for char in _OPENING]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\n(?!\n|\z)"), "\n "), *spaced, normalizers.Prepend(" ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    closed = [decoders.Replace(char + " ", char) for char in reversed(_OPENING)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Strip(" ", 1, 0), *closed, decoders.Replace("\n ", "\n")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
