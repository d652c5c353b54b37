"""CITATION.cff says what is true of this version (its schema was checked with `cffconvert --validate`)."""

from __future__ import annotations

from pathlib import Path

import yaml

import cmt_memory


def test_it_cites_this_version_and_the_paper():
    cited = yaml.safe_load((Path(__file__).parent.parent / "CITATION.cff").read_text("utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert cited["version"] == cmt_memory.__version__
    assert cited["preferred-citation"]["doi"] == "10.1609/aaai.v39i23.34619"
    assert cited["preferred-citation"]["authors"][0]["family-names"] == "Li"
