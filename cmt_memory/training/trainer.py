"""`CMTTrainer`: one stage of a run on `transformers.Trainer`."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from cmt_memory.errors import GateFailedError, InvalidInputError
from cmt_memory.model.parts import own_tensors
from cmt_memory.progress import Progress
from cmt_memory.training.config import Stage, TrainConfig
from cmt_memory.training.gates import GateKeeper
from cmt_memory.training.learner import LOSSES, Learner
from cmt_memory.training.precision import takes_bfloat16
from cmt_memory.training.units import Unit, Units

STATE = "learner.safetensors"
"""What is trained, in a checkpoint."""
FAILED = "gate.json"
"""Where a stage says which gate ended it."""


@dataclass
class CMTTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` for a stage; `of` makes them from the checked configuration."""

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: one at most. With several, `Trainer` would split a unit, which is a whole batch."""
        gpus: int = super().n_gpu
        return min(1, gpus)

    @classmethod
    def of(cls, config: TrainConfig, stage: Stage, folder: Path, steps: int) -> CMTTrainingArguments:
        """The arguments of one stage.

        Args:
            config: the run.
            stage: one of its stages.
            folder: where the stage's checkpoints and TensorBoard logs go.
            steps: how many optimiser steps the stage takes.

        Raises:
            InvalidInputError: the batches of a step cannot be shared by the processes there are.

        Examples:
            >>> from pathlib import Path
            >>> from cmt_memory.training import CMTTrainingArguments, TrainConfig
            >>> stage = {"task": "answers", "steps": 100, "learning_rate": 1e-4}
            >>> config = TrainConfig(output="run", train=[{"kind": "facts"}], stages=[stage], device="cpu")
            >>> arguments = CMTTrainingArguments.of(config, config.stages[0], Path("run"), steps=100)
            >>> arguments.max_steps, arguments.learning_rate
            (100, 0.0001)
        """
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        on_cpu = config.device == "cpu" or not torch.cuda.is_available()
        schedules = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
        return cls(
            output_dir=str(folder),
            per_device_train_batch_size=1,  # a unit is a whole batch already
            gradient_accumulation_steps=batches_each(stage),
            max_steps=steps,
            learning_rate=stage.learning_rate,
            lr_scheduler_type=schedules[stage.schedule],
            warmup_steps=round(stage.warmup * steps),
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm,
            adam_beta2=0.95,
            bf16=takes_bfloat16(config.bf16, torch.device("cpu" if on_cpu else "cuda")),
            use_cpu=on_cpu,
            ddp_backend="gloo" if on_cpu and processes > 1 else None,
            seed=config.seed,
            data_seed=config.seed,
            logging_steps=config.log_every,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=config.save_every,
            save_total_limit=config.keep_checkpoints,
            report_to=["tensorboard"],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            accelerator_config={"split_batches": False, "dispatch_batches": False},
        )


def batches_each(stage: Stage) -> int:
    """How many of a step's batches each process takes.

    Raises:
        InvalidInputError: they cannot be shared by the processes there are.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if stage.gradient_accumulation % processes:
        raise InvalidInputError(
            f"A step of {stage.gradient_accumulation} batches cannot be shared by {processes} processes: set "
            f"gradient_accumulation of each stage to a multiple of {processes}."
        )
    return stage.gradient_accumulation // processes


class CMTTrainer(Trainer):
    """Trains a `Learner` on units: logs every objective, keeps only what is trained, resumes exactly.

    A `transformers.Trainer`, so processes, checkpoints and callbacks are as there. `run_training` makes all that it
    takes from a configuration, and gates, stages and the model card beside it.

    Args:
        learner: the module whose chosen parameters are trained.
        args: see `CMTTrainingArguments.of`.
        units: the data, already batched and in order.
        callbacks: as in `transformers.Trainer`.
    """

    def __init__(
        self,
        learner: Learner,
        args: CMTTrainingArguments,
        units: Units,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self._sums = torch.zeros(2, len(LOSSES))
        watch = [LogAtSaves(), *(callbacks or [])]
        super().__init__(model=learner, args=args, train_dataset=units, data_collator=_only, callbacks=list(watch))
        self.remove_callback(PrinterCallback)  # prints to the standard output; see `ProgressCallback`
        self.model_accepts_loss_kwargs = False
        self.learner = learner

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """Units come in the order they have: it is drawn already, and the same for any number of processes."""
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)  # type: ignore[arg-type]

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See `Trainer.train`; afterwards the model makes memories as one that was loaded, without dropout."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.learner.eval()
            self.learner.model.retrained()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted sum of the objectives; each is kept for the log."""
        losses: dict[str, Tensor] = model(inputs["unit"])
        self._sums = self._sums.to(losses["loss"].device)
        for place, name in enumerate(LOSSES):
            if name in losses:
                self._sums[:, place] += torch.stack([losses[name].float(), torch.ones_like(losses[name].float())])
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each objective's mean since the last line, over all processes.

        Raises:
            GateFailedError: one is no number. A line comes before every checkpoint, so the last one is from before.
        """
        if "loss" in logs:
            totals: Tensor = self.accelerator.reduce(self._sums.to(self.accelerator.device), reduction="sum")
            means = zip(LOSSES, *totals.tolist(), strict=True)
            logs |= {f"loss_{name}": total / count for name, total, count in means if count}
            self._sums = torch.zeros_like(self._sums)
            if not all(math.isfinite(value) for name, value in logs.items() if name.startswith("loss")):
                raise GateFailedError(
                    f"The loss is no number any more by step {self.state.global_step} of {self.state.max_steps}: "
                    "choose a lower learning rate or max_grad_norm, and another output."
                )
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write a CMT model that can be loaded, and what only training needs; safetensors and JSON."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        learner = self.learner
        if learner.model.config.lm:  # an LM that was never on disk cannot be named
            learner.model.retrained()
            learner.model.save_pretrained(folder)
        save_learner(learner, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_learner(self.learner, Path(resume_from_checkpoint))


def save_learner(learner: Learner, folder: Path) -> None:
    """Write what is trained."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in own_tensors(learner).items()}
    save_file(tensors, folder / STATE)


def load_learner(learner: Learner, folder: Path) -> None:
    """The inverse of `save_learner`."""
    tensors = load_file(folder / STATE)
    if tensors.keys() != own_tensors(learner).keys():
        raise InvalidInputError(f"{folder / STATE} holds other parts than this run trains.")
    learner.load_state_dict(tensors, strict=False)  # the second name of a tied tensor is not saved


def _only(units: list[Unit]) -> dict[str, Unit]:
    return {"unit": units[0]}


class LogAtSaves(TrainerCallback):
    """Logs with every checkpoint, so that a run that goes on from one logs means over the same steps."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log where a checkpoint is due."""
        control.should_log = control.should_log or control.should_save


class ProgressCallback(TrainerCallback):
    """A progress bar, and a line for each entry of the log, on the standard error stream.

    Args:
        what: what is being done.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar, with the steps of a resumed stage behind it."""
        self._bar = Progress(self._what, state.max_steps, unit="steps", show=sys.stderr.isatty()).__enter__()
        self._bar.advance(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.advance(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the figures of a step; those of the whole stage are in its log."""
        logs = logs or {}
        shown = {name: value for name, value in logs.items() if name.startswith(("loss", "gate_", "learning_rate"))}
        if shown:
            figures = ", ".join(f"{name.removeprefix('gate_').replace('_', ' ')} {v:.4g}" for name, v in shown.items())
            print(f"{self._what}, step {state.global_step}/{state.max_steps}: {figures}", file=sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


class GateCallback(TrainerCallback):
    """Measures the gates every so many steps, and stops the stage when one is not met.

    Args:
        keeper: what measures.
        every: steps between measurements.
        after: steps of this stage before a threshold stops it.
        folder: where the failure is written.
    """

    def __init__(self, keeper: GateKeeper, every: int, after: int, folder: Path) -> None:
        self._keeper, self._every, self._after, self._folder = keeper, every, after, folder
        self.trainer: CMTTrainer | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Measure where it is time."""
        if state.global_step % self._every and state.global_step != state.max_steps:
            return control
        measured = [self._keeper.measure() if state.is_world_process_zero else {}]
        found: dict[str, float] = broadcast_object_list(measured)[0]
        if self.trainer is not None:
            due = control.should_log
            self.trainer.log({f"gate_{name}": value for name, value in found.items()})
            control.should_log = due  # which logging takes back, and with it the losses of this step
        failure = self._keeper.failure(found) if state.global_step >= self._after else None
        if failure is not None:
            if state.is_world_process_zero:
                told = {"step": state.global_step, "failure": failure, "found": found}
                (self._folder / FAILED).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
            control.should_training_stop = True
            control.should_save = True
        return control
