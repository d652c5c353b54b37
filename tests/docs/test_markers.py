"""Markers and links of pages: what replaces them, and what is refused."""

from __future__ import annotations

import links
import markers
import pytest
import results
from mkdocs.exceptions import PluginError

PAGES = {"index.md", "concepts/training.md", "results.md", *links.SOURCES}


def test_a_value_stands_in_its_sentence():
    whole = results.read("storage")["bytes_per_document"]["payload"]
    said = markers.replaced('A memory takes {{ value("storage", "bytes_per_document.payload", "{:,} bytes") }} then.')
    assert said == f"A memory takes {whole:,} bytes then."


def test_a_place_in_a_list_is_a_number():
    first = results.read("facts_memory")["gates"]["names"][0]["exact_match"]
    assert markers.replaced('{{ value("facts_memory", "gates.names.0.exact_match") }}') == str(first)


def test_code_is_left_alone():
    text = '```\n{{ table("latency") }}\n```\n\nWrite `{{ table("latency") }}` or `{{ bos_token }}`.\n'
    assert markers.replaced(text) == text


def test_a_marker_keeps_its_indentation():
    assert all(line[:4].isspace() for line in markers.replaced('    {{ table("ingest") }}').splitlines() if line)


@pytest.mark.parametrize(
    "marker",
    [
        '{{ tabel("latency") }}',
        '{{ table("no such table") }}',
        '{{ figure("no such figure") }}',
        '{{ value("storage", "bytes_per_document.nothing") }}',
        "{{ table(latency) }}",
    ],
)
def test_a_marker_that_means_nothing_stops_the_build(marker):
    with pytest.raises(PluginError, match="marker"):
        markers.replaced(marker)


def test_what_was_not_measured_is_said_once(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    page = markers.replaced('{{ table("eval/facts") }}\n\n{{ figure("eval/facts/kept") }}\n\n{{ table("latency") }}')
    assert page.count("Not measured yet") == 2
    assert "benchmarks/results/facts.json" in page
    assert "cmt-memory bench latency" in page
    assert markers.replaced('{{ value("facts", "seed") }}') == "(not measured yet)"


@pytest.mark.parametrize(
    ("link", "source", "page", "becomes"),
    [
        ("[t](docs/concepts/training.md#data)", "README.md", "index.md", "[t](concepts/training.md#data)"),
        ("[`t`](docs/concepts/training.md)", "README.md", "index.md", "[`t`](concepts/training.md)"),
        ("[c](CONTRIBUTING.md)", "README.md", "index.md", "[c](project/contributing.md)"),
        ("[home](../../README.md)", "docs/concepts/training.md", "concepts/training.md", "[home](../index.md)"),
        ("[code](../../benchmarks/untrained.py)", "docs/concepts/training.md", "concepts/training.md", "code"),
        ("[t](training.md)", "docs/concepts/speed.md", "concepts/speed.md", "[t](training.md)"),
        ("[gone](../../no/such.py)", "docs/concepts/x.md", "concepts/x.md", "[gone](../../no/such.py)"),
        ("[p](https://arxiv.org/abs/2412.07393)", "README.md", "index.md", "[p](https://arxiv.org/abs/2412.07393)"),
        ("`[c](CONTRIBUTING.md)`", "README.md", "index.md", "`[c](CONTRIBUTING.md)`"),
        ("[k](#below)", "docs/results.md", "results.md", "[k](#below)"),
    ],
)
def test_links_lead_to_pages_of_the_site(link, source, page, becomes):
    assert links.rewritten(link, source, page, PAGES) == becomes


def test_every_file_that_is_a_page_exists():
    for source in links.OUTSIDE:
        assert links.outside_page(source).startswith("# ")


def test_the_home_page_is_the_readme():
    assert markers.replaced((links.ROOT / "docs" / "index.md").read_text("utf-8")).endswith(markers.readme() + "\n")
    assert "![" not in markers.readme()  # its drawings stand in the page
