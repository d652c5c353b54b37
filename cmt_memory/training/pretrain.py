"""Pretrain the bundled LM on synthetic fact documents.

``python -m cmt_memory.training.pretrain --config recipe.yaml --output runs/cmt-tiny-lm`` starts a run; the same command
goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cmt_memory.training import mixture
from cmt_memory.training.alone import alone
from cmt_memory.training.initialisation import redraw, seed_copying
from cmt_memory.training.packing import IGNORE, SIGHTS, Batch, Pointing, Sight, bucket, collate, draw_drops, encode
from cmt_memory.training.precision import takes_bfloat16
from cmt_memory.training.team import Shared, views
from cmt_memory.training.tokenizer import train_tokenizer

LOSSES = ("answer", "text", *(f"sight_{sight}" for sight in SIGHTS))
"""The losses of a step, as the log names them."""
_WEIGHTS = "model.safetensors"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelShape(_Strict):
    """Shape of the Llama."""

    vocabulary: int = Field(default=3072, ge=300)
    width: int = 256
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    feed_forward: int = 576
    positions: int = 2048
    rope_theta: float = 10000.0


class PretrainConfig(_Strict):
    """A pretraining run.

    Learning rates fall linearly to a fiftieth over the last ``decay`` of the tokens. A step averages the gradients of
    ``workers`` batches, each computed by a process of its own on a CPU. ``pointing_loss`` weighs the loss of each
    sight, with 1 where it names none. ``start`` is the folder of a saved LM, such as a run's ``export``, whose
    tokenizer and weights this run begins with. ``drop_key`` is the largest share of document tokens that a key/value
    head may not see when it answers, and ``drop_key_chance`` how many of the questions' spans are answered that way.
    ``bf16: auto`` computes in bfloat16 where that is faster.
    """

    seed: int = 0
    start: Path | None = None
    model: ModelShape = ModelShape()
    seed_copying: bool = False
    pointing: dict[Sight, dict[int, tuple[int, ...]]] = {}
    pointing_loss: dict[Sight, float] = {}
    drop_key: float = Field(0.0, ge=0, lt=1)
    drop_key_chance: float = Field(1.0, ge=0, le=1)
    batch_tokens: int = Field(2048, ge=64)
    workers: int = Field(2, ge=1)
    lr_matrices: float = Field(4e-3, gt=0)
    lr_rest: float = Field(3e-3, gt=0)
    weight_decay: float = 0.02
    warmup_steps: int = 40
    decay: float = Field(0.35, ge=0, le=1)
    bf16: bool | Literal["auto"] = "auto"
    stages: tuple[mixture.Stage, ...]
    squad: str | None = None
    log_every: int = 20
    eval_every: int = 250
    eval_documents: int = 40
    checkpoint_every: int = 200

    @model_validator(mode="after")
    def _pointing_exists(self) -> PretrainConfig:
        for layer, heads in (pair for layers in self.pointing.values() for pair in layers.items()):
            if not 0 <= layer < self.model.layers:
                raise ValueError(f"pointing names layer {layer}; the model has layers 0 to {self.model.layers - 1}.")
            for head in heads:
                if not 0 <= head < self.model.heads:
                    raise ValueError(f"pointing names head {head}; a layer has heads 0 to {self.model.heads - 1}.")
        return self


def read_config(path: Path) -> PretrainConfig:
    """Read a recipe, refusing keys it does not know."""
    import yaml

    return PretrainConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def build_model(shape: ModelShape, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained LM."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def losses(
    model: LlamaForCausalLM, batch: Batch, pointing: Pointing | None = None, drop_key: Sequence[float] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean loss on answers, that on every fourth document token, and which answer tokens are right."""
    hidden = model.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        spans=batch.spans,
        pointing=pointing,
        drop_key=drop_key,
        use_cache=False,
    )[0]
    at = batch.answers != IGNORE
    answer_logits = model.lm_head(hidden[at]).float()
    answer_loss = F.cross_entropy(answer_logits, batch.answers[at])
    there = (batch.text != IGNORE) & (batch.position_ids % 4 == 0)
    text_loss = (
        F.cross_entropy(model.lm_head(hidden[there]).float(), batch.text[there]) if there.any() else answer_loss * 0
    )
    return answer_loss, text_loss, answer_logits.argmax(-1) == batch.answers[at]


@torch.no_grad()
def exact_match(model: LlamaForCausalLM, batches: list[Batch]) -> list[bool]:
    """Tell for each question whether every answer token is the most likely one, which is greedy exact match."""
    right: list[bool] = []
    for batch in batches:
        *_, correct = losses(model, batch)
        owner = batch.owner[batch.answers != IGNORE]
        wrong = owner.new_zeros(int(owner.max()) + 1).index_add_(0, owner, (~correct).long())
        right += (wrong == 0).tolist()
    return right


class Pretraining:
    """One resumable run in a folder.

    Args:
        config: The recipe.
        output: Folder of checkpoints, log and export.
        shared: Memory shared with the run's first process, for the others.
        rank: Which process this is.
    """

    def __init__(self, config: PretrainConfig, output: Path, shared: Shared | None = None, rank: int = 0) -> None:
        self.config, self.output, self.rank = config, output, rank
        output.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.squad = mixture.load_squad(config.squad)
        if config.start is not None:
            _check_saved(config.start)
        self.tokenizer = self._tokenizer()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.workers = config.workers if self.device.type == "cpu" else 1
        self.bf16 = takes_bfloat16(config.bf16, self.device)
        self.model = build_model(config.model, self.tokenizer)
        redraw(self.model)
        if config.start is not None:
            self.model.load_state_dict(load_file(config.start / _WEIGHTS), strict=False)
        elif config.seed_copying:
            seed_copying(self.model, self._reading_heads())
        torch.nn.Module.to(self.model, self.device)
        self.model.set_attn_implementation("spans")
        self.parameters = list(self.model.parameters())
        self.optimizers = self._optimizers()
        self.state: dict[str, Any] = {"step": 0, "tokens": 0, "wall_s": 0.0, "cpu_s": 0.0}
        self.place: dict[str, int] = {"pool": 0, "offset": 0}
        self._load()
        size = sum(p.numel() for p in self.parameters)
        self.shared = shared or Shared.allocate(size, 2 + len(LOSSES), self.workers, self.device)
        for parameter, view in zip(self.parameters, views(self.shared.weights, self.parameters), strict=True):
            if rank == 0:
                view.copy_(parameter.data)
            parameter.data = view
        of_each = zip(*(views(gradient, self.parameters) for gradient in self.shared.gradients), strict=True)
        mine = {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}
        self.owned = [(p, parts) for p, parts in zip(self.parameters, of_each, strict=True) if id(p) in mine]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Make the optimizers of the parameters that this process owns."""
        config = self.config
        named = list(self.model.named_parameters())
        matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
        chosen = {id(p) for p in matrices}
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices[self.rank :: self.workers],
                lr=config.lr_matrices,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        ]
        if self.rank == self.workers - 1:
            rest = [p for _, p in named if id(p) not in chosen]
            optimizers.append(torch.optim.AdamW(rest, lr=config.lr_rest, weight_decay=0.0, betas=(0.9, 0.98)))
        return optimizers

    def _reading_heads(self) -> dict[int, set[int]]:
        heads: dict[int, set[int]] = {}
        for sight in ("answer", "name"):
            for layer, chosen in self.config.pointing.get(sight, {}).items():
                heads.setdefault(layer, set()).update(chosen)
        return heads

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        folder = self.output / "tokenizer"
        if not folder.exists():
            if self.config.start is not None:
                PreTrainedTokenizerFast.from_pretrained(self.config.start).save_pretrained(folder)
            else:
                texts = mixture.tokenizer_texts(self.config.seed, self.squad)
                train_tokenizer(texts, self.config.model.vocabulary).save_pretrained(folder)
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer

    @property
    def budget(self) -> int:
        """Tokens of the whole run."""
        return sum(stage.tokens for stage in self.config.stages)

    def _stage(self) -> mixture.Stage:
        end = 0
        for stage in self.config.stages:
            end += stage.tokens
            if self.state["tokens"] < end:
                return stage
        return self.config.stages[-1]

    def _rate(self) -> float:
        left = 1 - self.state["tokens"] / self.budget
        decay = min(1.0, 0.02 + 0.98 * left / self.config.decay) if self.config.decay else 1.0
        return float(decay * min(1.0, (self.state["step"] + 1) / self.config.warmup_steps))

    def batches(self) -> Iterator[Batch]:
        """Yield this process's batches from where the run stands, the same ones after a resume."""
        while True:
            rng = random.Random(f"{self.config.seed}/{self.rank}/{self.place['pool']}")
            stage = self._pool_stage()
            tokens = stage.batch_tokens or self.config.batch_tokens
            episodes = mixture.sample_episodes(rng, stage, 256, self.squad)
            groups = bucket([row for row in encode(self.tokenizer, episodes) if len(row) <= tokens], tokens)
            while self.place["offset"] < len(groups):
                group = groups[self.place["offset"]]
                self.place["offset"] += 1
                yield collate(group)
            self.place["pool"] += 1
            self.place["offset"] = 0
            self.place.pop("stage", None)

    def _pool_stage(self) -> mixture.Stage:
        """Return the stage a pool of episodes began in, which a resume must draw it from again."""
        return self.config.stages[self.place.setdefault("stage", self.config.stages.index(self._stage()))]

    def run(self, max_steps: int | None = None) -> None:
        """Train until the token budget is used, or for ``max_steps`` steps.

        Raises:
            InvalidInputError: Another run is under way in the folder.
        """
        with alone(self.output, "run"):
            helpers = [
                torch.multiprocessing.get_context("spawn").Process(
                    target=_help, args=(self.config, self.output, self.shared, rank, max_steps), daemon=True
                )
                for rank in range(1, self.workers)
            ]
            for helper in helpers:
                helper.start()
            self.train(max_steps)
            for helper in helpers:
                helper.join()

    def train(self, max_steps: int | None = None) -> None:
        """Do this process's part of a run."""
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.workers))
        try:
            self._train(max_steps)
        except BaseException:
            if self.shared.barrier is not None:
                self.shared.barrier.abort()
            raise

    def _train(self, max_steps: int | None) -> None:
        config, started, cpu = self.config, time.monotonic(), time.process_time()
        wall0, cpu0 = self.state["wall_s"], self.state["cpu_s"]
        window: list[list[float]] = []
        stop = None if max_steps is None else self.state["step"] + max_steps
        stream = self.batches()
        while self.state["tokens"] < self.budget and self.state["step"] != stop:
            window.append(self.step(next(stream)))
            self.state["wall_s"] = wall0 + time.monotonic() - started
            self.state["cpu_s"] = cpu0 + (time.process_time() - cpu) * self.workers
            step = self.state["step"]
            if step % config.log_every == 0:
                means = {f"{name}_loss": _mean(v) for name, v in zip(LOSSES, zip(*window, strict=True), strict=True)}
                self._log(**means, rate=self._rate())
                window = []
            if step % config.eval_every == 0 and self.rank == 0:
                self._log(**self.evaluate())
            if step % config.checkpoint_every == 0:
                self.save()
        self.save()

    def step(self, batch: Batch) -> list[float]:
        """Take one optimiser step on the mean gradient of this process's batch and the others'.

        Returns:
            The mean of each of ``LOSSES``.
        """
        shared, rate = self.shared, self._rate()
        self.model.train()
        parts, gradients = self._gradients(batch)
        torch.cat([g.flatten() for g in gradients], out=shared.gradients[self.rank])
        shared.figures[self.rank, 1:] = torch.tensor([batch.input_ids.shape[1], *parts], dtype=torch.float64)
        shared.meet()
        squares = 0.0
        for parameter, (first, *others) in self.owned:
            parameter.grad = sum(others, first.clone()).div_(self.workers)
            squares += float(parameter.grad.square().sum())
        shared.figures[self.rank, 0] = squares
        shared.meet()
        figures = shared.figures.clone()
        clip = min(1.0, 1.0 / (float(figures[:, 0].sum().sqrt()) + 1e-6))
        for parameter, _ in self.owned:
            if parameter.grad is not None:
                parameter.grad.mul_(clip)
        for optimizer in self.optimizers:
            base = self.config.lr_matrices if isinstance(optimizer, torch.optim.Muon) else self.config.lr_rest
            for group in optimizer.param_groups:
                group["lr"] = base * rate
            optimizer.step()
        self.state["step"] += 1
        self.state["tokens"] += int(figures[:, 1].sum())
        shared.meet()
        means: list[float] = figures[:, 2:].mean(0).tolist()
        return means

    def _gradients(self, batch: Batch) -> tuple[list[float], tuple[Tensor, ...]]:
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            pointing = Pointing(self.config.pointing)
            torch.manual_seed(hash((self.config.seed, self.rank, self.state["step"])))  # the same drops after a resume
            drops = draw_drops(batch.spans, self.config.drop_key, self.config.drop_key_chance)
            answer, text, _ = losses(self.model, batch, pointing, drops)
            pointed = pointing.means()
            total = (
                answer
                + self._stage().text_loss * text
                + sum(self.config.pointing_loss.get(sight, 1.0) * mean for sight, mean in pointed.items())
            )
        parts = [answer, text, *(pointed.get(sight, torch.zeros(())) for sight in SIGHTS)]
        return [float(part.detach()) for part in parts], torch.autograd.grad(total, self.parameters)

    def evaluate(self) -> dict[str, Any]:
        """Measure exact match from the text for each gate, and by kind for held-out names."""
        self.model.eval()
        scores: dict[str, Any] = {}
        for name, (episodes, kinds) in mixture.gates(self.config.eval_documents).items():
            rows = encode(self.tokenizer, episodes)
            batches = [collate(rows[i : i + 8]).to(self.device) for i in range(0, len(rows), 8)]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                right = exact_match(self.model, batches)
            scores[name] = round(sum(right) / len(right), 4)
            if name == "names":
                scores["kinds"] = {
                    k: round(_mean(r for r, kind in zip(right, kinds, strict=True) if kind == k), 3)
                    for k in sorted(set(kinds))
                }
        return {"eval": scores}

    def save(self) -> None:
        """Write a checkpoint, every process its own file, and a loadable bfloat16 model folder."""
        folder, fresh, old = (self.output / name for name in ("checkpoint", "checkpoint.new", "checkpoint.old"))
        fresh.mkdir(exist_ok=True)
        tensors = {
            f"{number}/{index}/{key}": torch.as_tensor(value)
            for number, optimizer in enumerate(self.optimizers)
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        if self.rank == 0:
            tensors |= {f"model/{k}": v for k, v in self.model.state_dict().items() if k != "lm_head.weight"}
        save_file(
            {k: v.detach().cpu().clone() for k, v in tensors.items()},
            fresh / f"{self.rank}.safetensors",
            {"state": json.dumps(self.state), "place": json.dumps(self.place)},
        )
        self.shared.meet()
        if self.rank == 0:
            if folder.exists():
                folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
            export(self.model, self.tokenizer, self.output / "export")
        self.shared.meet()

    def _load(self) -> None:
        folder, old = self.output / "checkpoint", self.output / "checkpoint.old"
        if self.rank == 0 and old.exists() and not folder.exists():
            old.rename(folder)
        if not folder.exists():
            return
        if len(list(folder.iterdir())) != self.workers:
            raise ValueError(
                f"{folder} was written by {len(list(folder.iterdir()))} processes and this run has {self.workers}: "
                "set workers in the recipe to that number, or choose another --output."
            )
        path = folder / f"{self.rank}.safetensors"
        tensors = load_file(path, device=str(self.device))
        with safe_open(path, "pt") as file:
            self.state = json.loads(file.metadata()["state"])
            self.place = json.loads(file.metadata()["place"])
        if self.rank == 0:
            self._load_weights(tensors)
        for number, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{number}/"):
                    _, index, name = key.split("/")
                    state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})

    def _load_weights(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")}, strict=False)

    def _log(self, **values: Any) -> None:
        if self.rank:
            return
        facts = {
            k: round(v, 1) if isinstance(v, float) else v
            for k, v in self.state.items()
            if k in ("step", "tokens", "wall_s", "cpu_s")
        }
        line = json.dumps(facts | {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
        print(line, flush=True)
        with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _check_saved(start: Path) -> None:
    for part in ("tokenizer.json", _WEIGHTS):
        if not (start / part).exists():
            raise ValueError(f"{start / part} is missing, so there is no saved LM to start from.")


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the LM in bfloat16 with its tokenizer, loadable by the auto classes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig.from_dict(model.config.to_dict() | {"dtype": "bfloat16"})
    copy = LlamaForCausalLM(config)
    torch.nn.Module.to(copy, torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _help(config: PretrainConfig, output: Path, shared: Shared, rank: int, max_steps: int | None) -> None:
    """Be another process of a run until it ends or its first process stops."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        Pretraining(config, output, shared, rank).train(max_steps)
    except (KeyboardInterrupt, threading.BrokenBarrierError):
        return


def _end_with_parent() -> None:
    parent = torch.multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Run the recipe named on the command line."""
    parser = argparse.ArgumentParser(description="Pretrain the bundled LM; the same command resumes.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=None, help="stop after this many steps of this call")
    options = parser.parse_args(arguments)
    Pretraining(read_config(options.config), options.output).run(options.max_steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
