"""Check what a wheel and an sdist hold: `python .ci/contents.py FILE...`."""

import sys
import tarfile
import zipfile

NEEDED = (
    "py.typed",
    "assets/calibration.txt",
    "assets/demo/documents.jsonl",
    "assets/demo/questions.jsonl",
    "assets/cmt-tiny/config.json",
    "assets/cmt-tiny/cmt.safetensors",
    "assets/cmt-tiny/lm/model.safetensors",
    "training/recipes/cmt-tiny-lm.yaml",
)
FOREIGN = ("tests/", "benchmarks/", "runs/", "docs/")

for path in sys.argv[1:]:
    if path.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
        foreign = [name for name in names if name.startswith(FOREIGN)]
    else:
        with tarfile.open(path) as sdist:
            names = [name.partition("/")[2] for name in sdist.getnames()]
        foreign = [name for name in names if name.startswith("runs/")]
    missing = [name for name in NEEDED if f"cmt_memory/{name}" not in names]
    print(f"{path.rpartition('/')[2]}: {len(names)} files")
    if missing or foreign:
        sys.exit(f"{path}: missing {missing}, not wanted {foreign}")
