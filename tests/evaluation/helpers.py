"""Documents and questions for evaluations with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

TOWNS = ["Ulm", "Bern", "Lyon", "Riga", "Oslo", "Graz"]


def town(name: str) -> str:
    """A document of four sentences."""
    code = 1000 + 37 * len(name) + sum(map(ord, name))
    return (
        f"{name} lies on the river Orm. The mayor of {name} is Tom {name}er.\n"
        f"The code of the locker in {name} is {code}. On Sundays it is closed."
    )


def squad_file(path: Path, per_town: int = 2) -> Path:
    """A SQuAD-format file about towns, with several gold answers."""
    paragraphs = [
        {
            "context": town(name),
            "qas": [
                {
                    "id": f"{name}{number}",
                    "question": f"Who is the mayor of {name}?" if number else f"What is the code of {name}'s locker?",
                    "answers": [{"text": f"Tom {name}er"}, {"text": f"{name}er"}] if number else [{"text": "1"}],
                }
                for number in range(per_town)
            ],
        }
        for name in TOWNS
    ]
    path.write_text(json.dumps({"data": [{"title": "Towns", "paragraphs": paragraphs}]}))
    return path
