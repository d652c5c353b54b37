"""A whole run: data, model, stages one after the other, and what is left at the end. A stopped run goes on."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cmt_memory.errors import GateFailedError, InvalidInputError
from cmt_memory.model.fingerprint import module_digest
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.modeling import CMTModel
from cmt_memory.model.parts import start_parts
from cmt_memory.training.alone import alone
from cmt_memory.training.config import Stage, TrainConfig, checked
from cmt_memory.training.data import Source
from cmt_memory.training.gates import GateKeeper
from cmt_memory.training.learner import Learner
from cmt_memory.training.overfit import EXAMPLES, learns_by_heart
from cmt_memory.training.report import write_card, write_plot
from cmt_memory.training.sensitivity import weigh_maps
from cmt_memory.training.sources import Mixture, TextSource, open_source
from cmt_memory.training.trainer import (
    FAILED,
    CMTTrainer,
    CMTTrainingArguments,
    GateCallback,
    ProgressCallback,
    batches_each,
    load_learner,
    save_learner,
)
from cmt_memory.training.units import AnswerUnit, Units, shortened

logger = logging.getLogger(__name__)

SETTINGS, DONE, MODEL, OVERFIT = "settings.json", "done.json", "model", "overfit.json"
_MAY_CHANGE = {"output", "log_every", "save_every", "keep_checkpoints"}
"""Settings that change nothing of what is learned."""
_NEEDED = {"peft": "peft", "matplotlib": "matplotlib", "tensorboard": "tensorboard", "yaml": "pyyaml"}


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left.

    Attributes:
        model: folder for `CMTModel.from_pretrained`.
        results: measurements on held-out questions by ratio; empty where there were none.
        log: every line of the log, with `stage`.
    """

    model: Path
    results: dict[int, dict[str, float]]
    log: list[dict[str, Any]]


def run_training(config: TrainConfig, *, show_progress: bool = False) -> RunResult:
    """Train from a configuration, or go on where the run in its folder was stopped.

    Args:
        config: the run.
        show_progress: draw a progress bar and print the log, on the standard error stream.

    Raises:
        InvalidInputError: data, LM and settings do not go together, or the folder holds a run of other settings, or
            one that is under way.
        GateFailedError: a measurement says that the run is hopeless.

    Examples:
        >>> from cmt_memory import CMTModel
        >>> from cmt_memory.training import TrainConfig, run_training
        >>> stage = {"task": "answers", "steps": 2, "batch": 2, "gradient_accumulation": 1}
        >>> config = {"output": "run", "train": [{"kind": "facts"}], "ratios": [4], "latent": 32, "fit": 8}
        >>> result = run_training(TrainConfig(**config, stages=[stage], device="cpu"))
        >>> CMTModel.from_pretrained(result.model).config.trained_ratios
        (4,)
    """
    _check_installed()
    _check_folder(config)
    data, held_out = _data(config, config.train, "train"), _data(config, config.held_out, "held-out")["answers"]
    steps = [_steps(stage, data[stage.task], number) for number, stage in enumerate(config.stages)]
    for stage in config.stages:
        batches_each(stage)
    model = _starting_model(config, data["pretrain"])
    if model.lm.device.type == "cpu":
        model.lm.model.set_attn_implementation("eager")  # SDPA is slower backwards (benchmarks/training_step.py)
    _check_lengths(config, model.lm)
    held_out = held_out.changed(partial(shortened, model.lm, most=config.episodes.document_tokens))
    before = module_digest([model.lm.model])
    learner = Learner(model, config.objectives, config.batch_tokens)
    with nullcontext() if _rank() else alone(config.folder, "training"):
        _settle(config)
        _weigh_maps(config, model, data["answers"])
        _check_overfit(config, learner, data["answers"])
        log: list[dict[str, Any]] = []
        for number in range(len(config.stages)):
            log += _run_stage(config, number, steps, learner, data, held_out, show_progress)
        after = module_digest([model.lm.model])
        if before != after:
            raise GateFailedError("The frozen LM's weights changed during training, so its memories cannot be trusted.")
        return _finish(config, learner, held_out, log, after)


def _check_installed() -> None:
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InvalidInputError(f"Training needs {', '.join(missing)}: pip install 'cmt-memory[train]'.")


def _check_folder(config: TrainConfig) -> None:
    """Refuse to go on with a run of other settings, or with one that a gate ended."""
    if config.folder.exists() and not config.folder.is_dir():
        raise InvalidInputError(f"output: {config.folder} is a file; name a folder.")
    path, mine = config.folder / SETTINGS, config.as_json()
    if path.exists():
        # What a file of an earlier version does not name has the value it has unless given.
        theirs = checked(json.loads(path.read_text("utf-8")), str(path)).as_json()
        differing = sorted(key for key in mine.keys() - _MAY_CHANGE if mine[key] != theirs[key])
        if differing:
            raise InvalidInputError(
                f"{config.folder} holds a run of other settings: {', '.join(differing)} differ. Choose another output, "
                f"or give the settings of {path} to go on."
            )
        for failed in sorted(config.folder.glob(f"stage-*/{FAILED}")):
            raise GateFailedError(
                f"The run in {config.folder} was ended: {json.loads(failed.read_text('utf-8'))['failure']}. "
                "Change its settings and choose another output."
            )


def _settle(config: TrainConfig) -> None:
    """Remember the settings in the run's folder, once all that they name was found."""
    if _rank() == 0:
        partial = config.folder / f"{SETTINGS}.partial"
        partial.write_text(json.dumps(config.as_json(), indent=2) + "\n", "utf-8")
        partial.replace(config.folder / SETTINGS)


def _check_lengths(config: TrainConfig, lm: FrozenLM) -> None:
    """See that the LM has positions for the longest episodes there may be."""
    head, document, ratio = len(lm.prompt.head_ids), config.episodes.document_tokens, min(config.used_ratios)
    after = config.episodes.continuation_tokens
    lm.check_fits(head + document, "episodes.document_tokens with the prompt's head")
    for number, stage in enumerate(config.stages):
        if stage.task == "pretrain":
            lm.check_fits(head + 3 + after, f"stages.{number}: a text with {after} tokens to predict after it")
            continue
        count = max(stage.documents or config.episodes.documents)
        what = f"stages.{number}: a question after {count} documents of {document} tokens (episodes.document_tokens)"
        if config.objectives.distillation.weight:
            lm.check_fits(head + count * document + 1, f"{what}, read as text for distillation,")
        if config.compressor == "adapted":
            spanned = document if lm.scheme == "learned" else count * math.ceil(document / ratio)
            lm.check_fits(head + spanned + 1, f"{what} at ratio {ratio}")


def _weigh_maps(config: TrainConfig, model: CMTModel, train: Mixture) -> None:
    """Let the maps of a run that begins keep what answers depend on; a run that goes on has them already."""
    asked = any(stage.task == "answers" for stage in config.stages)
    first = config.folder / "stage-0"
    begun = (first / DONE).exists() or _last_checkpoint(first) is not None
    if config.compressor != "adapted" or config.start or not (config.fit_questions and asked) or begun:
        return
    batch = 4
    count = max(1, config.fit_questions // (batch * config.episodes.questions))
    stage = Stage(task="answers", steps=count, batch=batch, documents={1: 1.0})
    units = _units(config, model, train, stage, config.used_ratios, count, "weighed")
    weigh_maps(
        model,
        [unit for unit in map(units.__getitem__, range(count)) if isinstance(unit, AnswerUnit)],
        config.batch_tokens,
    )


def _check_overfit(config: TrainConfig, learner: Learner, train: Mixture) -> None:
    """Learn a few questions by heart, once a run, where the gates ask for it.

    Raises:
        GateFailedError: that does not succeed.
    """
    rates = [stage.learning_rate for stage in config.stages if stage.task == "answers"]
    gates, path = config.gates, config.folder / OVERFIT
    if not (gates.overfit_steps and rates) or path.exists():
        return
    unit = _unit(config, learner, train, config.default_ratio, EXAMPLES, {1: 1.0})
    known = learns_by_heart(learner, unit, gates.overfit_steps, max(rates))
    if known < gates.overfit:
        raise GateFailedError(
            f"The run is hopeless before it begins: after {gates.overfit_steps} steps on the same {len(unit.rows)} "
            f"questions {known:.0%} of them are known by heart, and at least {gates.overfit:.0%} are needed. Raise "
            "gates.overfit_steps or the learning rate, or lower the ratio."
        )
    if _rank() == 0:
        path.write_text(json.dumps({"questions": len(unit.rows), "known": known}) + "\n", "utf-8")


def _unit(
    config: TrainConfig,
    learner: Learner,
    mixture: Mixture,
    ratio: int,
    questions: int,
    documents: dict[int, float],
) -> AnswerUnit:
    """About so many questions, always the same ones."""
    batch = max(1, questions // config.episodes.questions)
    stage = Stage(task="answers", steps=1, batch=batch, documents=documents)
    unit = _units(config, learner.model, mixture, stage, [ratio], 1, "measured")[0]
    assert isinstance(unit, AnswerUnit)
    return unit


def _units(
    config: TrainConfig, model: CMTModel, mixture: Mixture, stage: Stage, ratios: Sequence[int], steps: int, name: str
) -> Units:
    """Batches of a stage, drawn under a name of their own."""
    template = model.config.chat_template_kwargs
    return Units(model.lm, mixture, stage, config.episodes, ratios, steps, f"{config.seed}/{name}", template)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _data(config: TrainConfig, sources: tuple[Source, ...], name: str) -> dict[str, Mixture]:
    """Data by the task of a stage; there are no questions about plain text."""
    opened = [(open_source(source, config.episodes.hard_negatives), source.weight) for source in sources]
    asked = [(source, weight) for source, weight in opened if not isinstance(source, TextSource)]
    return {"pretrain": Mixture(opened, f"{config.seed}/{name}"), "answers": Mixture(asked, f"{config.seed}/{name}")}


def _starting_model(config: TrainConfig, train: Mixture) -> CMTModel:
    """The model that a run starts from: a trained one, or the PCA around any LM."""
    cuda = config.device == "auto" and torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
    ratios = tuple(sorted(set(config.used_ratios))) if config.compressor == "adapted" else ()
    settings = {"ratio": config.default_ratio, "trained_ratios": ratios, "fingerprint": {}}
    if config.start is not None:
        named = config.llm if "llm" in config.model_fields_set else None
        model = CMTModel.from_pretrained(config.start, llm=named, device=device)
        if not model.compressor.trained:
            raise InvalidInputError(f"{config.start} holds no trained compressor to go on from; leave out `start`.")
        found = {key: getattr(model.config, key) for key in ("latent", *config.parts)}
        wanted = {"latent": config.latent, **config.parts}
        for key, value in found.items():
            if value != wanted[key]:
                raise InvalidInputError(f"{config.start} has {key} {value}, not {wanted[key]}; set the same here.")
        model.config = model.config.model_copy(update=settings)
        return model
    base = CMTModel.from_llm(config.llm, ratio=1, device=device)
    latent = min(config.latent, base.lm.layout.width) if config.compressor == "adapted" else config.latent
    made = base.config.model_copy(update=settings | config.parts | {"latent": latent})
    texts = [train.passage(number) for number in range(config.fit)]
    parts = start_parts(base.lm, made, config.used_ratios, texts, config.seed)
    return CMTModel(base.lm, made, parts.compressor, parts.aggregator, parts.aligner)


def _run_stage(
    config: TrainConfig,
    number: int,
    steps: Sequence[int],
    learner: Learner,
    data: dict[str, Mixture],
    held_out: Mixture,
    show_progress: bool,
) -> list[dict[str, Any]]:
    """Run a stage, or go on with it, or take what it left; returns its log."""
    folder, stage = config.folder / f"stage-{number}", config.stages[number]
    done = folder / DONE
    if done.exists():
        load_learner(learner, folder)
        return list(json.loads(done.read_text("utf-8"))["log"])
    folder.mkdir(parents=True, exist_ok=True)
    learner.choose(stage)
    units = _units(config, learner.model, data[stage.task], stage, config.used_ratios, steps[number], str(number))
    gates = _gates(config, number, steps, learner, held_out, folder)
    watch = [ProgressCallback(f"Stage {number}, {stage.task}")] if show_progress and _rank() == 0 else []
    trainer = CMTTrainer(
        learner, CMTTrainingArguments.of(config, stage, folder, steps[number]), units, [*gates, *watch]
    )
    for gate in gates:
        gate.trainer = trainer
    last = _last_checkpoint(folder)
    logger.info("stage %d: %d steps%s", number, steps[number], f", going on from {last}" if last else "")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.accelerator.wait_for_everyone()
    if (folder / FAILED).exists():
        failure = json.loads((folder / FAILED).read_text("utf-8"))["failure"]
        raise GateFailedError(f"Stopped at step {trainer.state.global_step} of stage {number}: {failure}.")
    log = [line | {"stage": number} for line in trainer.state.log_history]
    if trainer.is_world_process_zero():
        save_learner(learner, folder)
        partial = done.with_suffix(".partial")
        partial.write_text(json.dumps({"log": log}, indent=1) + "\n", "utf-8")
        partial.replace(done)
    trainer.accelerator.wait_for_everyone()
    return log


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; its `trainer_state.json` is what is written last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        except (OSError, json.JSONDecodeError):
            logger.warning("%s is not whole and passed over", checkpoint)
            continue
        return checkpoint
    return None


def _steps(stage: Stage, train: Mixture, number: int) -> int:
    if stage.steps is not None:
        return stage.steps
    if not len(train):
        raise InvalidInputError(f"stages.{number}.epochs: a source has no end; give `steps` instead.")
    assert stage.epochs is not None
    return math.ceil(stage.epochs * len(train) / (stage.batch * stage.gradient_accumulation))


def _gates(
    config: TrainConfig, number: int, steps: Sequence[int], learner: Learner, held_out: Mixture, folder: Path
) -> list[GateCallback]:
    if config.stages[number].task != "answers" or not config.held_out:
        return []
    tasks = [stage.task for stage in config.stages]
    passed = sum(steps[earlier] for earlier in range(number) if tasks[earlier] == "answers")
    keeper = _keeper(config, learner, held_out, config.gates.ratio or config.default_ratio)
    return [GateCallback(keeper, config.gates.every, max(0, config.gates.after - passed), folder)]


def _keeper(config: TrainConfig, learner: Learner, held_out: Mixture, ratio: int) -> GateKeeper:
    documents = next(
        (stage.documents for stage in reversed(config.stages) if stage.documents), config.episodes.documents
    )
    some = {count: weight for count, weight in documents.items() if count}
    unit = _unit(config, learner, held_out, ratio, config.gates.questions, some)
    return GateKeeper(learner.model, config.gates, held_out, documents, ratio, lambda: learner.first_token_losses(unit))


def _finish(
    config: TrainConfig, learner: Learner, held_out: Mixture, log: list[dict[str, Any]], digest: str
) -> RunResult:
    """Save the model, and write down what it is worth at each ratio."""
    model = learner.model
    folder = config.folder / MODEL
    results: dict[int, dict[str, float]] = {}
    if _rank() == 0:
        if config.held_out:
            results = {r: _keeper(config, learner, held_out, r).measure() for r in sorted(set(config.used_ratios))}
        model.retrained()
        model.save_pretrained(folder)
        write_plot(log, config.folder / "training.png")
        write_card(config, model, results, log, digest, folder / "README.md")
        (config.folder / "results.json").write_text(json.dumps({"ratios": results}, indent=2) + "\n", "utf-8")
    return RunResult(folder, results, log)
