"""Training: of the bundled LM, and of compressors for any LM."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmt_memory.training.config import TrainConfig, read_config
    from cmt_memory.training.learner import Learner
    from cmt_memory.training.run import RunResult, run_training
    from cmt_memory.training.trainer import CMTTrainer, CMTTrainingArguments

_EXPORTS = {
    "CMTTrainer": "cmt_memory.training.trainer",
    "CMTTrainingArguments": "cmt_memory.training.trainer",
    "Learner": "cmt_memory.training.learner",
    "RunResult": "cmt_memory.training.run",
    "TrainConfig": "cmt_memory.training.config",
    "read_config": "cmt_memory.training.config",
    "run_training": "cmt_memory.training.run",
}
__all__ = [
    "CMTTrainer",
    "CMTTrainingArguments",
    "Learner",
    "RunResult",
    "TrainConfig",
    "read_config",
    "run_training",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the facts generator needs no torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
