"""The commonest sentence encoder, a BERT with mean pooling, run without sentence-transformers.

The vectors are those of sentence-transformers; importing that library would cost seconds at every start, and
its ``encode`` milliseconds at every question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from cmt_memory.retrieval.encoders import Vectors

_MODULES = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_MODEL_TYPES = {"bert", "distilbert", "mpnet", "roberta", "xlm-roberta"}
_BATCH = 32


class MeanPoolingEncoder:
    """A sentence-transformers folder of transformer, mean pooling and perhaps normalisation.

    Args:
        folder: The model's folder.
        id: Name to keep with the store.
        device: Where it runs; a CUDA device if there is one, else the CPU.
    """

    def __init__(self, folder: Path, id: str, device: str | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.id = id
        self._torch = torch
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model: Any = AutoModel.from_pretrained(str(folder)).to(self._device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
        self._tokenizer.enable_truncation(_read(folder / "sentence_bert_config.json")["max_seq_length"])
        self._tokenizer.no_padding()
        self.dimension: int = self._model.config.hidden_size

    @staticmethod
    def can_read(folder: Path) -> bool:
        """Whether the folder holds nothing but what this class does itself."""
        modules = [str(module.get("type", "")).rpartition(".")[2] for module in _read(folder / "modules.json") or []]
        transformer = _read(folder / "sentence_bert_config.json") or {}
        settings = _read(folder / "config_sentence_transformers.json") or {}
        prompts = [prompt for prompt in (settings.get("prompts") or {}).values() if prompt]
        return (
            modules in _MODULES
            and set(transformer) <= {"max_seq_length", "do_lower_case"}
            and bool(transformer.get("max_seq_length"))
            and not transformer.get("do_lower_case")
            and not prompts
            and not settings.get("default_prompt_name")
            and (_read(folder / "config.json") or {}).get("model_type") in _MODEL_TYPES
            and (folder / "tokenizer.json").is_file()
            and _pools_mean(_read(folder / "1_Pooling" / "config.json") or {})
        )

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode texts to ``[n, dimension]``, texts of similar length together."""
        torch = self._torch
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        result = np.empty((len(tokens), self.dimension), dtype=np.float32)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            longest = len(tokens[places[-1]])
            ids = torch.zeros(len(places), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, place in enumerate(places):
                ids[row, : len(tokens[place])] = torch.tensor(tokens[place])
                mask[row, : len(tokens[place])] = 1
            result[places] = self._encode(ids, mask)
        return result

    def encode_query(self, text: str) -> Vectors:
        """Encode a question to ``[dimension]``."""
        ids = self._torch.tensor([self._tokenizer.encode(text).ids])
        return cast("Vectors", self._encode(ids, None)[0])

    def _encode(self, ids: Any, mask: Any) -> Vectors:
        """Token ids ``[n, tokens]`` and their mask, None where all count, to ``[n, dimension]``."""
        torch = self._torch
        with torch.inference_mode():
            mask = None if mask is None else mask.to(self._device)
            hidden = self._model(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state.float()
            if mask is None:
                pooled = hidden.mean(1)
            else:
                weights = mask.unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * weights).sum(1) / weights.sum(1)
            return cast("Vectors", torch.nn.functional.normalize(pooled, dim=1).cpu().numpy())


def _pools_mean(config: dict[str, Any]) -> bool:
    """Whether a pooling configuration, of the older or the newer form, is mean pooling over all tokens."""
    if config.get("include_prompt", True) is not True:
        return False
    if "pooling_mode" in config:
        return config["pooling_mode"] in ("mean", ["mean"])
    modes = [name for name, active in config.items() if name.startswith("pooling_mode_") and active]
    return modes == ["pooling_mode_mean_tokens"]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
