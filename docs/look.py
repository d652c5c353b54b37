"""Look at every page of the built site as a reader would: `python docs/look.py site shots`; needs playwright.

Each page is opened at desktop and phone width, light and dark, and a picture of it is left. Told and counted are errors
on the console, requests to anywhere else, and pages and parts of them that are wider than the window.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

WIDTHS = {"desktop": 1280, "phone": 390}
SCHEMES = ("light", "dark")
_WIDER = """() => {
  const wide = document.documentElement.scrollWidth > window.innerWidth ? ["the page"] : [];
  const inScroller = (node) => {
    for (let at = node.parentElement; at; at = at.parentElement) {
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(at).overflowX)) return true;
    }
    return false;
  };
  for (const node of document.querySelectorAll("article *")) {
    if (node.getBoundingClientRect().right > window.innerWidth + 1 && !inScroller(node) && !node.closest("svg")) {
      wide.push(node.tagName.toLowerCase() + ": " + node.textContent.trim().slice(0, 60));
    }
  }
  return wide.slice(0, 3);
}"""


def main() -> int:
    """Look at all pages; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("shots", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium", help="a Chromium")
    parser.add_argument("--only", default="", help="pages whose path has this in it")
    given = parser.parse_args()
    given.shots.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(given.site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        browser = playwright.chromium.launch(
            executable_path=given.browser,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
            ],
        )
        pages = sorted(path for path in given.site.rglob("*.html") if given.only in str(path.relative_to(given.site)))
        found = [problem for path in pages for problem in _looked(browser, address, path, given.site, given.shots)]
        browser.close()
        server.shutdown()
    print("\n".join(found))
    print(f"{len(pages)} pages, {len(found)} problems")
    return bool(found)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def _looked(browser: Browser, address: str, path: Path, site: Path, shots: Path) -> Iterator[str]:
    name = str(path.relative_to(site))
    for kind, width in WIDTHS.items():
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said: list[str] = []
            page.on(
                "console", lambda message, said=said: said.append(message.text) if message.type == "error" else None
            )
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on(
                "request",
                lambda request, said=said: (
                    None if request.url.startswith((address, "data:")) else said.append(request.url)
                ),
            )
            page.goto(f"{address}/{name}", wait_until="networkidle")
            said += [f"wider than the window: {what}" for what in page.evaluate(_WIDER)]
            page.screenshot(
                path=shots / f"{name.replace('/', '-').removesuffix('.html')}-{kind}-{scheme}.png", full_page=True
            )
            page.close()
            yield from (f"{name} {kind} {scheme}: {what}" for what in said)


if __name__ == "__main__":
    sys.exit(main())
