"""The documentation: it builds without a warning, and its pages are right in a real browser, at the
width of a telephone: every picture and link is there, nothing sticks out, the console is silent.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from commands import ROOT, attempt, program

CHECKER = """<!doctype html><html><body><iframe id="frame" width="360" height="740"></iframe>
<script>
const frame = document.getElementById("frame"), report = {}, known = {};
const open = (url) => new Promise((done) => { frame.onload = done; frame.src = url; });
const anchors = async (url) => {
  if (!(url in known)) {
    const reply = await fetch(url);
    const page = new DOMParser().parseFromString(reply.ok ? await reply.text() : "", "text/html");
    known[url] = reply.ok ? new Set([...page.querySelectorAll("[id]")].map((e) => e.id)) : null;
  }
  return known[url];
};
(async () => {
  for (const url of await (await fetch("/pages.json")).json()) {
    await open(url);
    const page = frame.contentDocument, found = { images: 0, links: 0, wrong: [] };
    for (const image of page.images) {
      image.loading = "eager";
      await image.decode().catch(() => {});
      found.images += 1;
      if (!image.naturalWidth) found.wrong.push("no picture " + image.src);
      else if (!image.alt) found.wrong.push("no words for " + image.src);
    }
    for (const link of page.querySelectorAll("a[href]")) {
      const at = new URL(link.href);
      if (at.origin !== location.origin) continue;
      found.links += 1;
      const there = await anchors(at.pathname);
      const name = decodeURIComponent(at.hash.slice(1));
      if (!there || (name && !there.has(name))) found.wrong.push("no page " + link.href);
    }
    const wide = page.documentElement;
    if (wide.scrollWidth > wide.clientWidth)
      found.wrong.push(`${wide.scrollWidth} wide on a screen of ${wide.clientWidth}`);
    const words = page.querySelector("article p");
    if (words && parseFloat(frame.contentWindow.getComputedStyle(words).fontSize) < 14)
      found.wrong.push("letters too small to read");
    report[url] = found;
  }
  await fetch("/report", { method: "POST", body: JSON.stringify(report) });
})();
</script></body></html>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = attempt(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", folder)
    assert done.returncode == 0, done.stdout
    return folder


class _Server(SimpleHTTPRequestHandler):
    """The built pages, the page that goes through them, and a place for its report."""

    reports: Queue[dict[str, Any]]

    def do_GET(self) -> None:
        folder = Path(self.directory)
        if self.path == "/check":
            self._send(CHECKER, "text/html")
        elif self.path == "/pages.json":
            pages = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.html"))
            self._send(json.dumps([f"/{page}" for page in pages]), "application/json")
        elif self.path == "/favicon.ico":
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send("", "text/plain")

    def _send(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def browse(folder: Path, profile: Path) -> tuple[dict[str, Any], list[str]]:
    """What the checker found on each page of a folder, and what the console said."""
    reports: Queue[dict[str, Any]] = Queue()
    handler = type("Handler", (_Server,), {"reports": reports})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"]
    flags += ["disable-background-networking", "disable-component-update", "disable-sync"]
    flags += ["disable-dev-shm-usage", f"user-data-dir={profile}", "enable-logging=stderr"]
    flags += ["remote-debugging-port=0"]  # so that it stays until it is told to go
    browser = subprocess.Popen(
        [
            program("chromium"),
            *(f"--{flag}" for flag in flags),
            f"http://127.0.0.1:{server.server_port}/check",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        report = reports.get(timeout=300)
    finally:
        browser.terminate()
        _, said = browser.communicate(timeout=60)
        server.shutdown()
        server.server_close()
    return report, re.findall(r".*:CONSOLE.*", said)


@pytest.fixture(scope="module")
def visit(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    return browse(site, tmp_path_factory.mktemp("profile"))


def test_every_page_is_whole_in_a_browser(visit: Any) -> None:
    report, console = visit
    assert {url: page["wrong"] for url, page in report.items() if page["wrong"]} == {}
    assert console == []
    assert len(report) > len(list((ROOT / "docs").rglob("*.md")))
    assert sum(page["images"] for page in report.values()) >= 10
    assert sum(page["links"] for page in report.values()) > 500


def test_the_check_sees_what_is_broken(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.html").write_text(
        '<!doctype html><article><p id="here" style="font-size: 9px">words</p></article>'
        '<img src="none.png" alt="none"><a href="none.html">x</a><a href="#nowhere">x</a>'
        '<a href="#here">x</a><div style="width: 500px">x</div><script>fail()</script>'
    )
    report, console = browse(site, tmp_path / "profile")
    wrong = [re.sub(r"http://.*/", "", line) for line in report["/a.html"]["wrong"]]
    assert wrong == [
        "no picture none.png",
        "no page none.html",
        "no page a.html#nowhere",
        "508 wide on a screen of 360",
        "letters too small to read",
    ]
    assert any("fail is not defined" in line for line in console)


def test_pictures_are_small_and_used() -> None:
    pages = "".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))
    for picture in (ROOT / "docs" / "figures").iterdir():
        assert f"figures/{picture.name}" in pages, picture
        assert picture.stat().st_size < 250_000, picture
