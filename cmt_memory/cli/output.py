"""What commands print: JSON for scripts, sizes for people."""

from __future__ import annotations

import json
from typing import Any

import click


def print_json(value: Any) -> None:
    """One JSON document on one line, in ASCII, so that it survives any terminal and pipe."""
    click.echo(json.dumps(value))


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "KB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
