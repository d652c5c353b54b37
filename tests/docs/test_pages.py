"""Every page of the site runs as it stands, offline, in an empty folder, and shows what it prints."""

from __future__ import annotations

import pytest

from tests.docs.notebooks import DOCS, check, pages, read_page, run_page


@pytest.mark.slow
@pytest.mark.parametrize("path", pages(needing=False), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_runs_and_shows_what_it_prints(path, tmp_path):
    page = read_page(path)
    check(page, run_page(page, tmp_path))
