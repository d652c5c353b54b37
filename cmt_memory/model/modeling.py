"""CMTModel: a frozen LM with the parts that turn documents into memories and memories into a prefix."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cmt_memory.confidence import Calibration, read_calibrations, write_calibrations
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.model.aggregator import Aggregator
from cmt_memory.model.agreement import FitReport, next_token_agreement
from cmt_memory.model.aligner import Aligner, LinearAligner
from cmt_memory.model.compressor import Compressor, ReadingCompressor
from cmt_memory.model.config import CMTConfig, Untrained
from cmt_memory.model.encoder import EncoderCompressor
from cmt_memory.model.fingerprint import module_digest
from cmt_memory.model.latent import calibration_texts, collect_rows, fit_latent, take_tokens
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.loading import bundled, lm_name, load_lm, load_tensors, save_lm
from cmt_memory.model.memory import Memory
from cmt_memory.model.parts import Parts, check_settings, default_compressor, load_parts
from cmt_memory.model.prefix import KVPrefix, assemble
from cmt_memory.model.prompt import PromptFormat
from cmt_memory.model.text_encoder import TextEncoder

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 4096
_REPORT_TOKENS = 2048
_REPORT_TEXTS = 8


class CMTModel:
    """Compressor Θ, aggregator ψ and aligner π around a frozen LM.

    Make one with `from_llm` (any Hugging Face causal LM, nothing trained) or `from_pretrained`.

    Examples:
        >>> from cmt_memory import CMTModel
        >>> model = CMTModel.from_llm("cmt-tiny", ratio=1)
        >>> [memory] = model.compress(["Mara's locker code is 4471."])
        >>> memory.slots.shape[0] == memory.n_tokens
        True
    """

    def __init__(
        self,
        lm: FrozenLM,
        config: CMTConfig,
        compressor: Compressor,
        aggregator: Aggregator,
        aligner: Aligner,
    ) -> None:
        self.lm = lm
        self.config = config
        self.compressor = compressor.to(lm.device).requires_grad_(False)
        self.aggregator = aggregator.to(lm.device).requires_grad_(False)
        self.aligner = aligner.to(lm.device).requires_grad_(False)
        self._parts_digest: str | None = None
        self.explicit: set[str] = {"weights"} if compressor.trained else set()
        """What the caller gave (settings, trained weights), which an existing store must not replace by its own."""
        self.calibrations: list[Calibration] = []
        """What came with a saved model: how sure its answers are, at each of some ratios."""
        self._made_memories = False

    # -- making one --------------------------------------------------------------------------------------------

    @classmethod
    def from_llm(
        cls,
        llm: str | os.PathLike[str] | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        ratio: int | None = None,
        latent: int | Literal["full"] | None = None,
        compressor: Untrained | None = None,
        fit_on: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **model_kwargs: Any,
    ) -> CMTModel:
        """Use any Hugging Face causal LM; nothing is trained.

        Args:
            llm: a hub id, a local folder, a loaded model, or `"cmt-tiny"`.
            tokenizer: the tokenizer or its id; needed with a loaded model, else taken from `llm`.
            ratio: document tokens per slot, 1 (unless given) to 256; 1 with `latent="full"` is lossless
                for a single document.
            latent: numbers per slot, or `"full"`; `"full"` at ratio 1, else 256, unless given.
            compressor: `"pooled"` (mean of neighbouring positions) or `"kept"` (the positions that matter);
                the one that keeps more at this ratio, unless given.
            fit_on: texts to fit the latent's PCA on; text shipped with the package unless given.
            device: `"cpu"`, `"cuda"`, `"mps"`, …; the best one there is, unless given or `device_map` is passed.
            dtype: as in transformers; float32 on the CPU and the checkpoint's own elsewhere, unless given.
            chat_template_kwargs: variables for the chat template, such as `{"enable_thinking": True}`.
            revision: hub revision of LM and tokenizer.
            trust_remote_code: run code that comes with the LM; off unless asked for.
            model_kwargs: passed to `AutoModelForCausalLM.from_pretrained` (`device_map`, `attn_implementation`, …).

        Raises:
            InvalidInputError: a setting is out of range.
            UnsupportedModelError: the LM keeps no keys and values that a memory could join.

        Examples:
            >>> from cmt_memory import CMTModel
            >>> model = CMTModel.from_llm("cmt-tiny", ratio=4, latent=64)  # or "Qwen/Qwen3-0.6B", a folder, a loaded LM
            >>> [memory] = model.compress(["Mara's locker code is 4471."])
            >>> memory.slots.shape[0] == -(-memory.n_tokens // 4), memory.slots.shape[1]
            (True, 64)
        """
        given = {"ratio": ratio, "latent": latent, "compressor": compressor}
        explicit = {name for name, value in given.items() if value is not None}
        ratio = 1 if ratio is None else ratio
        check_settings(ratio, latent, compressor)
        llm = getattr(llm, "get_base_model", lambda: llm)()  # of a PEFT model; its layers stay inside
        if not isinstance(llm, PreTrainedModel | str | os.PathLike):
            raise InvalidInputError(f"llm must be a hub id, a folder or a loaded model, not {type(llm).__name__}.")
        if isinstance(llm, PreTrainedModel):
            model, name = llm, lm_name(str(llm.config._name_or_path or ""))
            source = name
            if model_kwargs or dtype is not None:
                unused = sorted([*model_kwargs, *(["dtype"] if dtype is not None else [])])
                raise InvalidInputError(f"{unused} only apply when the LM is loaded here; a loaded model was passed.")
            if tokenizer is None:
                raise InvalidInputError("A loaded model needs its tokenizer: from_llm(model, tokenizer=tokenizer).")
            if device is not None:
                model.to(torch.device(device))  # type: ignore[arg-type]
        else:
            name = lm_name(llm)
            model, source = load_lm(name, device, dtype, revision, trust_remote_code, model_kwargs)
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(
                tokenizer or source, revision=revision, trust_remote_code=trust_remote_code
            )
        assert tokenizer is not None
        rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[index]
        if len(tokenizer) > rows:
            raise InvalidInputError(
                f"The tokenizer has {len(tokenizer)} tokens but the LM embeds {rows}: they do not belong together, or "
                "model.resize_token_embeddings was not called."
            )
        chosen: int | Literal["full"] = latent or ("full" if ratio == 1 else 256)
        lm = FrozenLM(model, tokenizer, PromptFormat.from_tokenizer(tokenizer, chat_template_kwargs), revision)
        config = CMTConfig(
            lm=name,
            lm_revision=revision,
            ratio=ratio,
            latent=chosen if chosen == "full" else min(chosen, lm.layout.width),
            compressor=compressor or default_compressor(ratio),
            prompt=lm.prompt.to_dict(),
            chat_template_kwargs=chat_template_kwargs or {},
        )
        made = cls._build(lm, config, {})
        if config.latent != "full":
            made._fit(fit_on)
        made.explicit = explicit
        return made

    @classmethod
    def _build(
        cls,
        lm: FrozenLM,
        config: CMTConfig,
        tensors: dict[str, torch.Tensor],
        encoder: TextEncoder | None = None,
    ) -> CMTModel:
        """Put the parts together; without tensors the latent is fitted later."""
        parts = load_parts(lm, config, tensors, encoder)
        return cls(lm, config, parts.compressor, parts.aggregator, parts.aligner)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        ratio: int | None = None,
        llm: str | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
        **model_kwargs: Any,
    ) -> CMTModel:
        """Load what `save_pretrained` wrote, or a bundled model such as `"cmt-tiny"`.

        Args:
            directory: the folder, or a bundled model's name.
            ratio: another ratio than the saved one.
            llm: the LM, where it is no longer where the configuration says, or is loaded already.
            tokenizer: as in `from_llm`.
            device: as in `from_llm`.
            dtype: as in `from_llm`.
            trust_remote_code: as in `from_llm`.
            model_kwargs: as in `from_llm`.

        Raises:
            InvalidInputError: the folder is not a CMT model, or a setting is out of range.
            FingerprintMismatchError: the LM found is not the one the checkpoint was made with.

        Examples:
            >>> from cmt_memory import CMTModel
            >>> CMTModel.from_pretrained("cmt-tiny", ratio=8).config.ratio
            8
        """
        own = bundled(str(directory))
        folder = own or Path(directory)
        config = CMTConfig.load(folder)
        if config.encoder is not None and config.encoder.model == "./encoder":
            config.encoder = config.encoder.model_copy(update={"model": str((folder / "encoder").absolute())})
        if ratio is not None:
            check_settings(ratio, None, None)
            if config.encoder is not None:
                raise InvalidInputError(
                    f"{folder} makes {config.encoder.slots} slots of every document, so there is no ratio to choose."
                )
            if config.compressor == default_compressor(config.ratio):
                config.compressor = default_compressor(ratio)
            config.ratio = ratio
        copied = str(directory) if own else str(folder / "lm")
        source: str | PreTrainedModel = llm or (copied if config.lm == "./lm" else config.lm)
        made = cls.from_llm(
            source,
            tokenizer=tokenizer,
            ratio=config.ratio,
            latent="full",
            device=device,
            dtype=dtype,
            chat_template_kwargs=config.chat_template_kwargs,
            revision=config.lm_revision,
            trust_remote_code=trust_remote_code,
            **model_kwargs,
        )
        for part in ("lm", "tokenizer"):
            expected, found = config.fingerprint.get(part), made.fingerprint[part]
            if expected is not None and expected != found:
                raise FingerprintMismatchError(
                    f"{folder} was made with another {part}: its {part} digest is {expected}, that of "
                    f"{made.config.lm or 'the given model'} is {found}."
                )
        if config.trained_ratios and not min(config.trained_ratios) <= config.ratio <= max(config.trained_ratios):
            logger.warning(
                "%s was trained at ratios %s and is used at %d", folder, list(config.trained_ratios), config.ratio
            )
        loaded = made.with_state(config, load_tensors(folder / "cmt.safetensors"))
        loaded.calibrations = read_calibrations(folder)
        loaded.explicit = (set() if own else loaded.explicit) | (set() if ratio is None else {"ratio"})
        return loaded

    def with_state(self, config: CMTConfig, tensors: dict[str, torch.Tensor]) -> CMTModel:
        """The same LM with saved settings (ratio, latent, prompt head) and tensors (`state`)."""
        lm = self.lm.with_prompt(PromptFormat.from_dict(config.prompt)) if config.prompt else self.lm
        update: dict[str, Any] = {"lm": self.config.lm}
        encoder = self._encoder
        if encoder is not None and config.encoder is not None:
            named = {"model": encoder.settings.model, "revision": encoder.settings.revision}
            update["encoder"] = config.encoder.model_copy(update=named)
            if update["encoder"] != encoder.settings:
                encoder = None  # read in another way
        made = self._build(lm, config.model_copy(update=update), tensors, encoder)
        made.calibrations = self.calibrations
        return made

    @property
    def _encoder(self) -> TextEncoder | None:
        """The text encoder, where the compressor has one."""
        return self.compressor.encoder if isinstance(self.compressor, EncoderCompressor) else None

    @property
    def _parts(self) -> Parts:
        return Parts(self.compressor, self.aggregator, self.aligner)

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors beside the LM that memories depend on, for `with_state`."""
        return self._parts.state()

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, include_lm: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        """Write `config.json` and `cmt.safetensors`, and `confidence.json` where there are calibrations.

        The LM, and the text encoder of a compressor that has one, are named, and copied only with `include_lm=True`.

        Args:
            directory: the folder; made if missing.
            include_lm: copy them too.
            dtype: what the tensors are kept in, such as `torch.bfloat16` for half the bytes; float32 unless given, and
                for the few that say where a slot is cut. What is loaded then is a model of rounded weights, with a
                fingerprint of its own.

        Raises:
            InvalidInputError: the LM was passed as an object, so that it has no name; copy it with `include_lm=True`.

        Examples:
            >>> from cmt_memory import CMTModel
            >>> model = CMTModel.from_llm("cmt-tiny", ratio=2)
            >>> model.save_pretrained("two")
            >>> CMTModel.from_pretrained("two").fingerprint == model.fingerprint
            True
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        kept, tensors = self, self.state()
        if dtype is not None:
            precise = tuple(f"compressor.{name}." for name in self.compressor.precise)
            tensors = {name: t if name.startswith(precise) else t.to(dtype) for name, t in tensors.items()}
            kept = self.with_state(self.config, tensors)
        config = kept.saved_config()
        if include_lm:
            save_lm(self.lm.model, self.lm.tokenizer, folder / "lm")
            config.lm = "./lm"
            if self._encoder is not None and config.encoder is not None:
                save_lm(self._encoder.model, self._encoder.tokenizer, folder / "encoder")
                config.encoder = config.encoder.model_copy(update={"model": "./encoder", "revision": None})
        elif not config.lm:
            raise InvalidInputError(
                "The LM was passed as an object that was not loaded from a path or hub id, so it cannot be named; "
                "save it too with save_pretrained(directory, include_lm=True)."
            )
        save_file(tensors, folder / "cmt.safetensors")
        text = json.dumps(config.model_dump(), indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", "utf-8")
        if kept.calibrations:
            write_calibrations(folder, kept.calibrations)

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> dict[str, str]:
        """Digests and settings that a memory depends on; two equal fingerprints read each other's memories."""
        if self._parts_digest is None:
            self._parts_digest = module_digest(self._parts.named().values())
        named = [part.identity for part in (self.compressor, self.aggregator, self.aligner)]
        return {
            "lm": self.lm.digest,
            "tokenizer": self.lm.tokenizer_digest,
            "compressor": f"{'+'.join(filter(None, named))}:{self._parts_digest}",
            "ratio": str(self.config.ratio),
            "latent": str(self.config.latent),
            "positions": self.lm.scheme,
            "head": ",".join(map(str, self.lm.prompt.head_ids)),
        }

    def saved_config(self) -> CMTConfig:
        """The settings with the fingerprint of the parts as they are now."""
        return self.config.model_copy(update={"fingerprint": self.fingerprint})

    @property
    def slot_width(self) -> int:
        """d, numbers per slot."""
        return self.lm.layout.width if self.config.latent == "full" else int(self.config.latent)

    @property
    def is_exact(self) -> bool:
        """Whether memories keep the LM's own keys and values, all of them, as they are."""
        return self.config.ratio == 1 and self.config.latent == "full"

    def exact(self) -> CMTModel:
        """The same LM with lossless memories: every position's own keys and values."""
        kept = {"lm", "lm_revision", "prompt", "chat_template_kwargs"}
        return self._build(self.lm, CMTConfig(**self.config.model_dump(include=kept)), {})

    # -- documents to memories ---------------------------------------------------------------------------------

    def compress(self, texts: Sequence[str], *, batch_tokens: int = _BATCH_TOKENS) -> list[Memory]:
        """Compress documents, each read on its own after the prompt's head.

        Args:
            texts: documents; long ones must be split first (a store does that).
            batch_tokens: how many tokens, padding included, the LM reads in one pass.

        Returns:
            One memory a text, in order.

        Raises:
            InvalidInputError: no text, an empty one, or one longer than the LM's positions.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) and text for text in texts):
            raise InvalidInputError("compress takes a list of non-empty strings.")
        documents = [self.lm.encode_document(text) for text in texts]
        for number, ids in enumerate(documents):
            self.lm.check_fits(len(self.lm.prompt.head_ids) + len(ids), f"Text {number}")
        self._made_memories = self._made_memories or bool(documents)
        memories: list[Memory | None] = [None] * len(documents)
        with torch.no_grad():
            for batch in length_batches([len(ids) for ids in documents], batch_tokens):
                made = self.compressor.compress(self.lm, [documents[i] for i in batch])
                for i, memory in zip(batch, made, strict=True):
                    memories[i] = memory
        return [memory for memory in memories if memory is not None]

    def fit(self, documents: Sequence[str]) -> FitReport:
        """Fit the latent's PCA on documents of your own, in place of the shipped text.

        Returns:
            What the latent keeps, measured on the documents' last tenth, which is not fitted on where there are ten
            or more.

        Raises:
            InvalidInputError: `latent="full"` has nothing to fit, or memories were made already: they could no
                longer be read. Fit first, or make a new model and `recompress` the store with it.

        Examples:
            >>> from cmt_memory import CMTModel
            >>> model = CMTModel.from_llm("cmt-tiny", ratio=1, latent=64)
            >>> report = model.fit(["Mara's locker code is 4471, and she changes it on Mondays."] * 20)
            >>> 0 < report.variance <= 1.001
            True
        """
        if self.config.latent == "full":
            raise InvalidInputError('latent="full" keeps slots whole, so there is nothing to fit.')
        if not isinstance(self.compressor, ReadingCompressor) or self.compressor.trained:
            raise InvalidInputError(
                "This model's latent was trained; train it on your documents instead of fitting it."
            )
        if self._made_memories:
            raise InvalidInputError(
                "This model has made memories already, and they could not be read after another fit. Fit a new model, "
                "and make the store's memories anew with store.recompress(model), or use a new store."
            )
        if not documents:
            raise InvalidInputError("fit needs at least one document.")
        held_out = len(documents) // 10
        fitted, measured = documents[: len(documents) - held_out], documents[-max(1, held_out) :]
        self._fit(fitted)
        rows = collect_rows(self.lm, take_tokens(self.lm, measured, _REPORT_TOKENS))
        agreement = next_token_agreement(self, measured[:_REPORT_TEXTS], context=128, continuation=32)
        projection = self.compressor.projection
        assert projection is not None
        return FitReport(projection.variance_kept(rows.to(self.lm.device)), agreement)

    def retrained(self) -> None:
        """Say that the parts' tensors have changed, so that the fingerprint is worked out anew."""
        self._parts_digest = None

    def hold(self) -> None:
        """Say that memories of this model exist elsewhere, so that it must not be fitted again."""
        self._made_memories = True

    def _fit(self, texts: Sequence[str] | None) -> None:
        passages = list(texts) if texts is not None else calibration_texts()
        projection = fit_latent(self.lm, int(self.config.latent), passages).to(self.lm.device)
        assert isinstance(self.compressor, ReadingCompressor)
        self.compressor.projection = projection
        self._parts_digest = None
        self.aligner = LinearAligner(projection)

    # -- memories to a prefix ----------------------------------------------------------------------------------

    def prefix(
        self,
        memories: Sequence[Sequence[Memory]],
        *,
        head_ids: tuple[int, ...] | None = None,
        reserve: int = 0,
        compress_question: Callable[[int], Memory] | None = None,
    ) -> KVPrefix:
        """Head and memories as keys and values: one row for each question.

        Args:
            memories: for each question its memories, most relevant first; none for a closed-book question.
            head_ids: see `assemble`.
            reserve: positions that question and answer need after the prefix.
            compress_question: row number → compressed question, for an aggregator that wants it.

        Raises:
            InvalidInputError: a memory was made by another model.

        Examples:
            >>> from cmt_memory import CMTModel
            >>> model = CMTModel.from_llm("cmt-tiny", ratio=1)
            >>> [memory] = model.compress(["Mara's locker code is 4471."])
            >>> prefix = model.prefix([[memory]])
            >>> len(prefix) == len(model.lm.prompt.head_ids) + len(memory.slots)
            True
        """
        with torch.no_grad():
            rows = []
            for memory in (memory for found in memories for memory in found):
                if memory.slots.shape[-1] != self.slot_width:
                    raise InvalidInputError(
                        f"A memory with {memory.slots.shape[-1]} numbers per slot was made by another model; this one "
                        f"has {self.slot_width}."
                    )
            for row, found in enumerate(memories):
                question = compress_question(row) if self.aggregator.needs_question and compress_question else None
                rows.append(self.aggregator.aggregate(self.lm, found, question) if found else None)
            return assemble(self.lm, self.aligner, rows, head_ids=head_ids, reserve=reserve)

    def extent(self, memories: Sequence[Memory]) -> int:
        """The fewest positions that these memories take together in a prefix, the head not counted."""
        return self.aligner.extent(self.aggregator.n_slots(memories), self.aggregator.extent(self.lm, memories))


def length_batches(lengths: Sequence[int], batch_tokens: int = _BATCH_TOKENS) -> list[list[int]]:
    """Indices in batches of similar length, longest first, so that little is padded and memory peaks early.

    Args:
        lengths: tokens of each text.
        batch_tokens: most tokens of a batch, padding included; a single longer text is a batch of its own.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
