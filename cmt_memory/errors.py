"""Errors of cmt-memory: each message says what was given, what was expected and what to do."""

from __future__ import annotations


class CMTError(Exception):
    """Base class of every error this library raises on purpose."""


class InvalidInputError(CMTError, ValueError):
    """An argument or a document cannot be used; nothing was changed."""


class UnsupportedModelError(CMTError):
    """The language model has no key/value cache that a memory could be injected into."""


class FingerprintMismatchError(CMTError):
    """A store or checkpoint was made with another language model, tokenizer or compressor."""


class StoreLockedError(CMTError):
    """Another process or object holds the store open for writing."""


class StoreClosedError(CMTError):
    """The store was closed; open it again to use it."""


class StoreFullError(CMTError):
    """The disk has no room for what was to be written; the message says what is kept."""


class StoreCorruptError(CMTError):
    """Something the store had written cannot be read back as it was."""


class GateFailedError(CMTError):
    """A measurement during training says that the run is hopeless; the message says which."""


class MissingIntegrationError(CMTError, ImportError):
    """A distribution that adapts a store to a framework is not installed; the message names the extra."""
