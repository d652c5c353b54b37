"""Tables and plots of committed results: everything committed is shown, with a command that can be given."""

from __future__ import annotations

import re
import shlex

import click
import evaluated
import links
import measured
import plots
import pytest
import results

from cmt_memory.cli import main
from cmt_memory.evaluation.config import EvalConfig
from cmt_memory.evaluation.experiments import run_evaluation
from tests.tiny import save_tiny

PAGE = (links.ROOT / "docs" / "results.md").read_text("utf-8")
STEMS = sorted(path.stem for path in results.RESULTS.glob("*.json"))


@pytest.mark.parametrize("stem", STEMS)
def test_every_committed_file_is_on_the_page(stem):
    shown = {stem for name, (stems, _) in measured.TABLES.items() if f'table("{name}")' in PAGE for stem in stems}
    shown |= set(re.findall(r'table\("eval/([\w.-]+)', PAGE))
    assert stem in shown


@pytest.mark.parametrize("name", measured.TABLES)
def test_a_table_says_where_it_comes_from(name):
    made = measured.table(name)
    stems, _ = measured.TABLES[name]
    assert made.startswith("| ")
    assert len({line.count("|") for line in made.partition("\n\n")[0].splitlines()}) == 1
    for stem in stems:
        assert results.command(stem) in made


@pytest.mark.parametrize("stem", STEMS)
def test_the_command_that_gives_it_again_exists(stem):
    program, *rest = shlex.split(results.command(stem))
    if program == "make":
        assert re.search(rf"^{rest[0]}:", (links.ROOT / "Makefile").read_text("utf-8"), re.M)
    elif program == "python":
        script = (links.ROOT / rest[0]).read_text("utf-8")
        assert all(f'"{option}"' in script for option in rest if option.startswith("--"))
    else:
        command: click.Command = main
        while isinstance(command, click.Group):
            command = command.commands[rest.pop(0)]
        with click.Context(command) as context:
            command.make_parser(context).parse_args(rest)


def test_a_figure_of_a_table_is_the_one_in_the_file():
    one = results.read("latency_0.5b_fp32")
    assert f"| {one['ttft_ms']['memory']:,.0f}<br>" in measured.table("latency")


# -- evaluations, by a real one of a tiny LM -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    save_tiny(folder / "lm", "qwen3")
    config = {
        "models": [{"model": str(folder / "lm"), "ratios": [1, 2]}],
        "encoder": "none",
        "resamples": 100,
        "max_new_tokens": 4,
        "batch": 8,
    }
    (folder / "found").mkdir()
    for name, data, more in (
        ("facts", {"kind": "facts", "count": 3, "facts": [2, 2]}, {"questions": 6, "k": 1, "ttft_questions": 2}),
        ("swapped", {"kind": "swapped", "pairs": 2}, {"ttft_questions": 0}),
    ):
        settings = EvalConfig(output=str(folder / name), data=data, **config, **more)
        run_evaluation(settings, command=f"cmt-memory eval --config {name}.yaml")
        (folder / name / "results.json").rename(folder / "found" / f"{name}.json")
    return folder / "found"


@pytest.fixture
def evaluated_results(evaluation, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", evaluation)


@pytest.mark.usefixtures("evaluated_results")
def test_an_evaluation_has_its_tables():
    overview, arms, times = (evaluated.table(f"facts{part}") for part in ("", "/arms", "/times"))
    found = results.read("facts")
    assert overview.count("\n| lm |") == len(found["results"]) == 2
    assert f"{found['results'][0]['arms']['memory']['em']['value']:.3f}" in overview
    assert arms.count("??? note") == 2
    for arm in found["results"][0]["arms"]:
        assert f"| {arm} |" in arms
    assert "memory, ms" in times
    assert all("seed 0" in made and "cmt-memory eval --config" in made for made in (overview, arms, times))


@pytest.mark.usefixtures("evaluated_results")
def test_pairs_have_a_table():
    assert "| swapped |" in evaluated.table("swapped/pairs")
    assert "no figures" in evaluated.table("facts/pairs")


@pytest.mark.usefixtures("evaluated_results")
@pytest.mark.parametrize("what", ["kept", "time", "bytes", "positions"])
def test_an_evaluation_has_its_plots(what):
    assert_is_a_drawing(plots.find(f"eval/facts/{what}").svg())


@pytest.mark.usefixtures("evaluated_results")
def test_the_dial_is_that_of_the_evaluation_once_there_is_one():
    assert plots.find("kept-against-ratio").stems == ("facts",)


@pytest.mark.parametrize("name", ["untrained-kept", "first-token"])
def test_benchmarks_have_plots(name):
    assert_is_a_drawing(plots.find(name).svg())


def assert_is_a_drawing(svg: str) -> None:
    assert svg.startswith("<svg ")
    assert "currentColor" in svg
    assert plots.INK not in svg
    assert "<text" in svg  # words that a reader can select, in the page's own type
    assert not re.search(r"(href|src)=\"http", svg)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#1e2129"])
@pytest.mark.parametrize("colour", plots.COLOURS)
def test_lines_stand_out_on_light_and_dark(colour, page):
    low, high = sorted((_luminance(colour), _luminance(page)))
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.1, 1.4.11: graphical objects
