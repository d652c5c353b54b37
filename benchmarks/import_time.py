"""How long `import cmt_memory` and `cmt-memory --help` take, in fresh processes: `python benchmarks/import_time.py`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

REPETITIONS = 15
COMMANDS = {
    "python": ["-c", "pass"],
    "import_cmt_memory": ["-c", "import cmt_memory"],
    "cmt_memory_help": ["-m", "cmt_memory", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print medians in seconds, and what importing adds to an empty process."""
    for arguments in COMMANDS.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPETITIONS):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    result = {name: round(statistics.median(values), 4) for name, values in times.items()}
    result["import_alone"] = round(result["import_cmt_memory"] - result["python"], 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
