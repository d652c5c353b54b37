"""Check that a built site loads nothing from elsewhere: `python .ci/site.py site`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*?\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:url\(|@import\s+)["']?(?:https?:)?//[^"')\s]+"""
)


def main() -> None:
    """Say how many files were read, or name what is loaded."""
    site = Path(sys.argv[1])
    files = [path for kind in ("*.html", "*.css") for path in site.rglob(kind)]
    found = [f"{path}: {load}" for path in files for load in LOADS.findall(path.read_text("utf-8"))]
    if not files or found:
        sys.exit("\n".join(found) or f"{site} holds no pages")
    print(f"{len(files)} files load nothing from elsewhere")


if __name__ == "__main__":
    main()
