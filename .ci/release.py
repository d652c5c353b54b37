"""Build the three distributions and use them as a user would: `python .ci/release.py FOLDER`.

In the folder are left `dist`, the environment `extras` with both integrations, and `core` with the core alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT, ROOT / "integrations/langchain-cmt", ROOT / "integrations/llama-index-cmt"]
NEEDED = {
    "cmt_memory": [
        "cmt_memory/py.typed",
        "cmt_memory/assets/calibration.txt",
        "cmt_memory/assets/demo/documents.jsonl",
        "cmt_memory/assets/demo/questions.jsonl",
        "cmt_memory/assets/cmt-tiny/config.json",
        "cmt_memory/assets/cmt-tiny/cmt.safetensors",
        "cmt_memory/assets/cmt-tiny/lm/model.safetensors",
        "cmt_memory/training/recipes/cmt-tiny-lm.yaml",
    ],
    "langchain_cmt": ["langchain_cmt/py.typed"],
    "llama_index_cmt": ["llama_index/llms/cmt/py.typed", "llama_index/retrievers/cmt/py.typed"],
}
FOREIGN = {".whl": ("tests/", "benchmarks/", "runs/", "docs/", "examples/"), ".gz": ("runs/",)}


def main() -> None:
    """Build, look into what was built, and try it in two fresh environments."""
    work = Path(sys.argv[1]).resolve()
    dist = work / "dist"
    build(work / "build", dist)
    for archive in sorted(dist.iterdir()):
        check_contents(archive)
    [core] = dist.glob("cmt_memory-*.whl")
    version = core.name.split("-")[1]
    extras = [f"cmt-memory[langchain,llama-index]=={version}", "--find-links", str(dist)]
    with ThreadPoolExecutor() as pool:
        tries = [
            pool.submit(try_out, work / "extras", extras, dist, 3),
            pool.submit(try_out, work / "core", [str(core)], dist, 1),
        ]
        for finished in tries:
            print(finished.result(), end="")


def build(environment: Path, dist: Path) -> None:
    """A wheel, made from the sdist, and the sdist of each distribution, all built in one environment."""
    python = make_environment(environment)
    backends = {need for project in PROJECTS for need in settings(project)["build-system"]["requires"]}
    run(python, "-m", "pip", "install", "--quiet", "build", *sorted(backends))
    for project in PROJECTS:
        run(python, "-m", "build", "--quiet", "--no-isolation", "--outdir", str(dist), str(project))


def check_contents(archive: Path) -> None:
    """End with an error where a wheel or an sdist lacks what it needs or holds what it should not."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            names = wheel.namelist()
    else:
        with tarfile.open(archive) as sdist:
            names = [name.partition("/")[2] for name in sdist.getnames()]
    missing = [name for name in NEEDED[archive.name.split("-")[0]] if name not in names]
    foreign = [name for name in names if name.startswith(FOREIGN[archive.suffix])]
    print(f"{archive.name}: {len(names)} files")
    if missing or foreign:
        sys.exit(f"{archive}: missing {missing}, not wanted {foreign}")


def try_out(environment: Path, what: list[str], dist: Path, built: int) -> str:
    """Install into a fresh environment, with so many wheels of `dist`, and run `installed.py` in an empty folder."""
    python = make_environment(environment)
    report = environment / "installed.json"
    constraints = str(ROOT / "constraints.txt")
    options = ["--quiet", "--no-compile", "--report", str(report), "-c", constraints]
    run(python, "-m", "pip", "install", *options, *what)
    urls = [package["download_info"]["url"] for package in json.loads(report.read_text("utf-8"))["install"]]
    ours = [url for url in urls if url.startswith(dist.as_uri())]
    if len(ours) != built:
        sys.exit(f"{environment.name}: {built} of the wheels just built were to be installed, not {ours}")
    empty = environment / "empty"
    empty.mkdir()
    (environment / "readme.py").write_text(five_lines(), "utf-8")
    return run(python, "-I", str(ROOT / ".ci/installed.py"), environment.name, "../readme.py", cwd=empty)


def five_lines() -> str:
    """The example of the front page, with the model that comes with the package."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    bundled: str = code.replace("Qwen/Qwen3-0.6B", "cmt-tiny")
    if bundled == code:
        sys.exit("README.md: the example no longer names Qwen/Qwen3-0.6B")
    return bundled


def settings(project: Path) -> dict[str, dict[str, list[str]]]:
    """What a distribution's pyproject.toml says."""
    found: dict[str, dict[str, list[str]]] = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    return found


def make_environment(folder: Path) -> str:
    """A fresh virtual environment's Python."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    run(base, "-m", "venv", str(folder))
    return str(folder / "bin/python")


def run(*command: str, cwd: Path = ROOT) -> str:
    """What a command prints; its end with an error is ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{ended.stdout}{' '.join(command)}: exit status {ended.returncode}")
    return ended.stdout


if __name__ == "__main__":
    main()
