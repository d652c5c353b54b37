"""Look at every page of the built site as a reader would: `python docs/look.py site shots`; needs playwright.

Each page is opened at desktop and phone width, light and dark, and a picture of it is left. Told and counted are errors
on the console, requests to anywhere else, and pages and parts of them that are wider than the window.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

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
    parser.add_argument("--only", default="", help="pages whose path this regular expression is found in")
    given = parser.parse_args()
    given.shots.mkdir(parents=True, exist_ok=True)
    names = sorted(str(path.relative_to(given.site)) for path in given.site.rglob("*.html"))
    names = [name for name in names if re.search(given.only, name)]
    handler = functools.partial(_Quiet, directory=str(given.site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=given.browser, args=flags)
        count = 0
        for problem in _problems(browser, address, names, given.shots):
            print(problem, flush=True)
            count += 1
        browser.close()
        server.shutdown()
    print(f"{len(names)} pages, {count} problems")
    return bool(count)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def _problems(browser: Browser, address: str, names: Sequence[str], shots: Path) -> Iterator[str]:
    for kind, width in WIDTHS.items():
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.set_default_timeout(300_000)  # a busy machine is no broken page
            said = _heard(page, address)
            for name in names:
                page.goto(f"{address}/{name}", wait_until="load")
                said += [f"wider than the window: {what}" for what in page.evaluate(_WIDER)]
                shot = f"{name.removesuffix('.html').removesuffix('/index').replace('/', '-')}-{kind}-{scheme}.png"
                page.screenshot(path=shots / shot, full_page=True)
                yield from (f"{name} {kind} {scheme}: {what}" for what in said)
                said.clear()
            page.close()


def _heard(page: Page, address: str) -> list[str]:
    """What a page says on the console and asks for elsewhere, from now on."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    local = (address, "data:")
    page.on("request", lambda request: None if request.url.startswith(local) else said.append(request.url))
    return said


if __name__ == "__main__":
    sys.exit(main())
