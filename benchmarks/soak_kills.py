"""Kill a store at random moments and check each time that everything it acknowledged is there; `make soak`.

    python -m benchmarks.soak_kills --kills 200 --output benchmarks/results/soak_kills.json

The work and the check are those of `tests/kills`. A store is killed 20 times in a row, then a new one is begun. The
seeds repeat the work and the delays; where exactly a kill falls depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

KILLS_PER_STORE = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    report = soak(options.kills, options.seed)
    text = json.dumps(report, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")
    return int(bool(report["failures"]))


def soak(kills: int, first_seed: int) -> dict[str, Any]:
    """Run the series and sum up what they met."""
    import chromadb

    from tests.kills.series import Series

    started = time.monotonic()
    totals: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    seeds: list[int] = []
    failures: list[dict[str, Any]] = []
    while sum(phases.values()) + len(failures) < kills:
        seed = first_seed + 1000 * len(seeds)
        seeds.append(seed)
        with tempfile.TemporaryDirectory() as folder:
            series = Series(Path(folder) / "store", seed)
            for number in range(min(KILLS_PER_STORE, kills - sum(phases.values()) - len(failures))):
                try:
                    print(f"seed {seed} kill {number}: {series.kill(number)}", flush=True)
                except Exception:
                    failures.append({"seed": seed, "kill": number, "error": traceback.format_exc()})
                    break
        phases += series.phases
        for name in ("acknowledged", "repairs", "rebuilds", "checks", "resumed"):
            totals[name] += getattr(series, name)
    return {
        "kills": kills,
        "by_phase": dict(phases.most_common()),
        "acknowledged_changes": totals["acknowledged"],
        "documents_checked": totals["checks"],
        "openings_that_repaired": totals["repairs"],
        "of_these_rebuilds": totals["rebuilds"],
        "interrupted_recompressions_finished": totals["resumed"],
        "failures": failures,
        "seeds": seeds,
        "kills_per_store": KILLS_PER_STORE,
        "seconds": round(time.monotonic() - started),
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "chromadb": chromadb.__version__,
    }


if __name__ == "__main__":
    raise SystemExit(main())
