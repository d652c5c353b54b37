"""What a run has found so far, on disk: it is appended to, and a second run goes on from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmt_memory.errors import CMTError, InvalidInputError

ANSWERS = "questions.jsonl"
RETRIEVAL = "retrieval.jsonl"
TIMES = "times.jsonl"
_RUN = "run.json"

Record = dict[str, Any]


class Records:
    """The records in a results folder.

    Args:
        folder: made if missing.
        settings: everything that a record depends on, beside its model.

    Raises:
        InvalidInputError: the folder holds records that were made with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._run = folder / _RUN
        self._makers: dict[str, str] = {}
        wanted = json.loads(json.dumps(settings))
        if self._run.exists():
            found = self._read_run()
            self._makers = found["models"]
            differing = sorted(
                key for key in {*found["settings"], *wanted} if found["settings"].get(key) != wanted.get(key)
            )
            if differing:
                raise InvalidInputError(
                    f"{folder} holds answers that were made with another {', '.join(differing)}: choose another "
                    "`output`, or delete the folder."
                )
        self._settings = wanted
        self._write_run()

    def settle(self, condition: str, fingerprint: str) -> None:
        """Say what a condition's answers are made with.

        Raises:
            InvalidInputError: the folder has answers of this condition by another model.
        """
        if self._makers.setdefault(condition, fingerprint) != fingerprint:
            raise InvalidInputError(
                f"{self.folder} holds answers of {condition} that another model gave under this name: choose another "
                "`output`, or give the model another `name`."
            )
        self._write_run()

    def read(self, name: str) -> list[Record]:
        """The records of a file; what an interrupted write left of a line is taken off the file."""
        path = self.folder / name
        if not path.exists():
            return []
        raw = path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            os.truncate(path, whole)
        try:
            return [json.loads(line) for line in raw[:whole].splitlines()]
        except ValueError as error:
            raise CMTError(f"{path} cannot be read ({error}); delete {self.folder} to start anew.") from error

    def append(self, name: str, records: Sequence[Record]) -> None:
        """Add records to a file, on disk when this returns."""
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())

    def _read_run(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._run.read_text("utf-8"))
            return {"settings": dict(found["settings"]), "models": dict(found["models"])}
        except (ValueError, KeyError, TypeError) as error:
            raise CMTError(f"{self._run} cannot be read; delete {self.folder} to start anew.") from error

    def _write_run(self) -> None:
        new = self._run.with_suffix(".new")
        new.write_text(json.dumps({"settings": self._settings, "models": self._makers}, indent=1) + "\n", "utf-8")
        new.replace(self._run)
