"""Errors of cmt-memory: each message says what was given, what was expected and what to do."""

from __future__ import annotations


class CMTError(Exception):
    """Base class of every error this library raises on purpose.

    Catch it where any of them may come; the message says which value was wrong and what to do.
    """


class InvalidInputError(CMTError, ValueError):
    """An argument or a document cannot be used; nothing was changed.

    Mend the value that the message names and call again. In a batch of documents it names the position.
    """


class UnsupportedModelError(CMTError):
    """The language model has no key/value cache that a memory could be injected into.

    Take another LM, or follow the message where it names a setting (another attention implementation, a tokenizer
    with a special token). Mamba and other hybrids cannot be used.
    """


class FingerprintMismatchError(CMTError):
    """A store or checkpoint was made with another language model, tokenizer or compressor.

    Open the store with the model that made it, or make its memories anew by the one you have:
    `CMTMemoryStore.open_recompressed`, or `cmt-memory store recompress`.
    """


class StoreLockedError(CMTError):
    """Another process or object holds the store open for writing.

    Close that one, or open this one with `read_only=True`. Several writers share a Chroma server: `client=`.
    """


class StoreClosedError(CMTError):
    """The store was closed, or this process was forked from the one that opened it.

    Open it again to use it; a forked child opens its own.
    """


class StoreFullError(CMTError):
    """The disk has no room for what was to be written; the message says what is kept.

    Free some, call `compact`, or choose a higher ratio or a smaller latent; then call again to go on.
    """


class StoreCorruptError(CMTError):
    """Something the store had written cannot be read back as it was.

    `verify` lists every damaged thing with what to do: `recompress` makes damaged memories anew from the text, and a
    damaged text is added again or comes from a backup.
    """


class GateFailedError(CMTError):
    """A measurement during training says that the run is hopeless; the message says which.

    Change what it names, choose another output folder and train again. A threshold of null stops nothing.
    """


class MissingIntegrationError(CMTError, ImportError):
    """A distribution that adapts a store to a framework is not installed; the message names the extra.

    Install that: `pip install 'cmt-memory[langchain]'` or `pip install 'cmt-memory[llama-index]'`.
    """
