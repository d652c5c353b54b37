"""Training: of the bundled LM, and of compressors for any LM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmt_memory.lazy import lazily

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

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
