"""The frozen LM as cmt-memory sees it: its layers' key/value shapes, its positions, its prompt format."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.capture import OnLayer, Rotation, capture, rotary_modules, rotate_keys
from cmt_memory.model.fingerprint import lm_digest, tokenizer_digest
from cmt_memory.model.memory import KVLayout, LayerShape
from cmt_memory.model.probe import (
    Span,
    attention_span,
    check_prefix,
    close,
    moves,
    position_limit,
    probe_pass,
    refuse_other_models,
)
from cmt_memory.model.prompt import BLANK_LINE, PromptFormat, WordsEncoder

logger = logging.getLogger(__name__)

PositionScheme = Literal["rotary", "learned", "alibi"]


class FrozenLM:
    """A Hugging Face causal LM, its tokenizer, and what was read from both.

    Nothing here depends on the architecture's name: a forward pass over a few tokens, run twice at different
    positions, shows which layers cache keys and values, in what shape, and how they carry positions.

    Attributes:
        scheme: `rotary` (keys are rotated by position, and stored before that), `learned` (positions are in the
            hidden states, so documents keep the positions they were encoded at), `alibi` (no position in the
            keys; distances are counted in slots).
        layout: the key/value layout of a full slot.
        max_positions: how many positions the LM knows, or None where it has no limit.
        encode_words: token ids of what users and documents say.

    The LM must not change afterwards: memories and the head are made with its weights as they are.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptFormat | None = None,
        revision: str | None = None,
    ) -> None:
        refuse_other_models(model)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.revision = revision
        self.config = model.config.get_text_config()
        self.decoder: nn.Module = _decoder(model)
        self.prompt = prompt or PromptFormat.from_tokenizer(tokenizer)
        self.encode_words = WordsEncoder(tokenizer)
        self._rotary_modules = rotary_modules(self.decoder)
        self._forward_takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters
        self._heads: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self._heads_lock = threading.Lock()
        self._probe()
        self.max_positions: int | None = None if self.scheme == "alibi" else position_limit(self.config)

    # -- what the model is -------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return self._dtype

    @cached_property
    def digest(self) -> str:
        """Digest of the LM; see `lm_digest`."""
        return lm_digest(self.model, self.revision)

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of the tokenizer; see `cmt_memory.model.fingerprint.tokenizer_digest`."""
        return tokenizer_digest(self.tokenizer)

    @property
    def takes_positions(self) -> bool:
        """Whether the LM's forward accepts `position_ids`."""
        return self._forward_takes_positions

    @cached_property
    def attention_span(self) -> Span:
        """How far the layers look back; see `cmt_memory.model.probe.attention_span`."""
        return attention_span(self.config)

    def _probe(self) -> None:
        """Find the layers' shapes and the position scheme from short forward passes, and see a prefix work."""
        arguments = (self.model, self.decoder, self._rotary_modules)
        first = probe_pass(*arguments, offset=0, positions=self._forward_takes_positions)
        self.layout = KVLayout([LayerShape.of(i, keys, values) for i, (keys, values, _) in sorted(first.items())])
        self._dtype = first[self.layout.layers[0].index][0].dtype
        self._rotation_groups = self._group_rotations({i: seen[2] for i, seen in first.items() if seen[2] is not None})
        if not self._rotation_groups:
            first = {i: (keys, values, None) for i, (keys, values, _) in first.items()}
        self.scheme: PositionScheme = "rotary" if self._rotation_groups else "alibi"
        if self._forward_takes_positions and moves(first, probe_pass(*arguments, offset=3, positions=True)):
            self.scheme = "learned"
            if any(type(part).__name__.endswith("RotaryEmbedding") for part in self.decoder.modules()):
                logger.warning(
                    "%s rotates its keys in a way that is not known here: documents keep the positions they were read "
                    "at, which is exact for one document; several documents stand at the same positions.",
                    type(self.model).__name__,
                )
        check_prefix(self, first)

    def _group_rotations(self, rotations: dict[int, Rotation]) -> list[tuple[str | None, list[int]]]:
        """Layers that share one rotary table, checked to give back what the model itself rotated."""
        rotary = next((m for m in self.decoder.modules() if type(m).__name__.endswith("RotaryEmbedding")), None)
        if rotary is None or not rotations:
            return []
        self._rotary = rotary
        layer_types = getattr(self.config, "layer_types", None)
        by_type = "layer_type" in inspect.signature(type(rotary).forward).parameters
        groups: dict[tuple[Any, ...], tuple[str | None, list[int]]] = {}
        for i, rotation in rotations.items():
            layer_type = layer_types[i] if by_type and layer_types else None
            heads, _, dim = rotation.keys.shape[1:]
            group = (layer_type, heads, dim, str(rotation.keys.device))
            groups.setdefault(group, (layer_type, []))[1].append(i)
        for layer_type, members in groups.values():
            module = self._module_that_rotates(rotations[members[0]], layer_type)
            if module is None:
                return []
            self._rotary_module = module
        return list(groups.values())

    def _module_that_rotates(self, rotation: Rotation, layer_type: str | None) -> ModuleType | None:
        keys = rotation.keys
        positions = torch.arange(keys.shape[2], device=keys.device, dtype=torch.float32)[None]
        cos, sin = self._rotary_tables(keys, layer_type, positions)
        for module in self._rotary_modules:
            try:
                if close(rotate_keys(module, keys, cos, sin), rotation.rotated_keys):
                    return module
            except RuntimeError:
                continue  # a function for tables of another shape
        return None

    def with_prompt(self, prompt: PromptFormat) -> FrozenLM:
        """The same LM behind another prompt format; weights are shared."""
        other = copy.copy(self)
        other.prompt = prompt
        return other

    # -- reading documents -------------------------------------------------------------------------------------

    def read(self, ids: Tensor, on_layer: OnLayer, decoder: nn.Module | None = None, **inputs: Any) -> None:
        """One pass of the decoder, or of another one of its kind, over `[B, n]` token ids, right-padded.

        See `capture`.
        """
        capture(decoder or self.decoder, self._rotary_modules, on_layer, input_ids=ids.to(self.device), **inputs)

    def encode_document(self, text: str) -> list[int]:
        """Token ids of a document with the blank line that follows it in every prompt."""
        return self.encode_words(text + BLANK_LINE)

    def unplaced_keys(self, keys: Tensor, rotation: Rotation | None) -> Tensor:
        """The keys to keep: before rotary embedding where `rotate` can give them their place again."""
        return rotation.keys if self.scheme == "rotary" and rotation is not None else keys

    def head(self, head_ids: tuple[int, ...] | None = None) -> list[tuple[Tensor, Tensor]]:
        """Keys, as the LM attends to them, and values of the prompt's head: `[1, H, h, D]` a layer, cached."""
        head_ids = self.prompt.head_ids if head_ids is None else head_ids
        with self._heads_lock:
            if head_ids not in self._heads:
                seen: dict[int, tuple[Tensor, Tensor]] = {}

                def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
                    seen[layer] = (keys, values)

                with torch.no_grad():
                    self.read(torch.tensor([head_ids]), on_layer)
                if len(self._heads) >= 64:
                    self._heads.pop(next(iter(self._heads)))
                self._heads[head_ids] = [seen[layer.index] for layer in self.layout.layers]
            return self._heads[head_ids]

    # -- placing documents -------------------------------------------------------------------------------------

    def rotate(self, pairs: list[tuple[Tensor, Tensor]], positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Give every layer's `[B, H, k, Dk]` keys their place, `[B, k]` positions, by the LM's own rotary module.

        All layers that share a rotary table are rotated in one call. Layers without rotary embedding, and all
        layers of other position schemes, come back as they are.
        """
        if self.scheme != "rotary":
            return pairs
        place = {layer.index: number for number, layer in enumerate(self.layout.layers)}
        placed = list(pairs)
        for layer_type, members in self._rotation_groups:
            keys = torch.cat([pairs[place[i]][0] for i in members], dim=1)
            cos, sin = self._rotary_tables(keys, layer_type, positions)
            rotated = rotate_keys(self._rotary_module, keys, cos, sin)
            for i, part in zip(members, rotated.chunk(len(members), dim=1), strict=True):
                placed[place[i]] = (part, pairs[place[i]][1])
        return placed

    def _rotary_tables(self, like: Tensor, layer_type: str | None, positions: Tensor) -> tuple[Tensor, Tensor]:
        extra = {} if layer_type is None else {"layer_type": layer_type}
        cos, sin = self._rotary(like, positions.to(like.device), **extra)
        return cos, sin

    def check_fits(self, n_positions: int, what: str) -> None:
        """Raise `InvalidInputError` when `n_positions` exceed what the LM can attend to."""
        if self.max_positions is not None and n_positions > self.max_positions:
            raise InvalidInputError(
                f"{what} needs {n_positions} positions, but the LM has {self.max_positions}; shorten it."
            )


def _decoder(model: PreTrainedModel) -> nn.Module:
    """The part of a causal LM below its output head."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    base: nn.Module = model.base_model
    return base if decoder is None or decoder is model else decoder
