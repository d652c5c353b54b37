"""One progress bar for everything that takes long, drawn on the standard error stream."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Progress:
    """A bar with count and remaining time; draws nothing with `show=False` or `total=0`.

    Args:
        what: what is being done.
        total: how many units there are.
        unit: their name.
        show: whether to draw.
    """

    def __init__(self, what: str, total: int, *, unit: str, show: bool) -> None:
        self._bar: Any = None
        if show and total:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(what, total=total)

    def advance(self, units: int) -> None:
        """Say that so many more units are done."""
        if self._bar is not None:
            self._bar.advance(self._task, units)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
