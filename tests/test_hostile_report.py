"""A trial whose every text means harm, opened in a real browser: nothing of it runs, nothing of it becomes an element.

The page is asked twice, with its policy and without: either must do alone.
"""

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from controlarm import report
from controlarm.analysis.summary import summarise
from tests.fabricate import fabricate
from tests.hostile import CANARY, MARKUP, NASTY, harm, protocol_of

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Server(ThreadingHTTPServer):
    """Serves a folder's pages to the browser, and remembers all that it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), self.answerer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answerer(self, *connection: Any) -> BaseHTTPRequestHandler:
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                asked.append(self.path)

            def log_error(self, format: str, *args: object) -> None:
                pass

        return Handler(*connection, directory=str(self.folder))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("pages"))
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def summaries(server, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What is reported of one trial while its texts are harmless, and when they are not."""
    folder = tmp_path_factory.mktemp("runs") / "trial"
    fabricate(folder, protocol_of("Is it so?"))
    harmless = summarise(folder)
    canary = f"{server.url}/canary"
    texts = [text.replace(CANARY, canary) for text in NASTY.values()]
    everything = "".join(text.replace(CANARY, canary) for text in MARKUP.values())
    harm(folder, [*texts, "w" * 3_000, "a" + "\u0301" * 3_000, "﷽" * 300], everything)
    hostile = summarise(folder)
    assert hostile["flow"]["damaged"] == []
    hostile["rollouts"][0]["strict"] = "constructor"  # no file may say so, but a report.json might
    return {"harmless": harmless, "hostile": hostile}


def without_policy(page: str) -> str:
    """The page with nothing to forbid what it brings."""
    free = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    assert len(free) < len(page)
    return free


PROBE = """<!doctype html><meta charset="utf-8"><title>probe</title><pre id="told"></pre><script>
const told = {}, wait = (ms) => new Promise((done) => setTimeout(done, ms));
const look = async (name, width) => {
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  const loaded = new Promise((done) => { frame.onload = done; });
  frame.src = name;
  await loaded;
  const page = frame.contentDocument, form = page.getElementById("filters");
  for (let i = 0; form && i < 50 && !page.getElementById("more").hidden; i++) page.getElementById("more").click();
  await wait(50);
  const all = [...page.querySelectorAll("*")];
  told[`${name} at ${width}`] = {
    tags: [...new Set(all.map((e) => e.tagName.toLowerCase()))].sort(),
    attributes: [...new Set(all.flatMap((e) => e.getAttributeNames()))].sort(),
    idents: all.map((e) => e.id).filter(Boolean).sort(),
    owned: [frame.contentWindow.owned, window.owned, page.documentElement.dataset && page.documentElement.dataset.owned, page.title === "owned"],
    wide: [page.documentElement.scrollWidth, frame.contentWindow.innerWidth],
    cut: [...page.querySelectorAll("h1, .question, .verdict li")].filter((e) => e.scrollWidth > e.clientWidth).length,
    beyond: [...page.querySelectorAll(".panel text")].filter((e) =>
      e.getBoundingClientRect().right > e.closest("svg").getBoundingClientRect().right + 24).map((e) => e.textContent),
    count: form && page.getElementById("count").textContent,
    shown: page.querySelectorAll("#problems > article").length,
    words: form && page.getElementById("problems").textContent.length,
  };
  frame.remove();
};
(async () => {
  for (const name of NAMES) for (const width of [1280, 390]) await look(name, width);
  document.getElementById("told").textContent = JSON.stringify(told);
})().catch((error) => { document.getElementById("told").textContent = JSON.stringify({ failed: String(error) }); });
</script>"""


def look(server: Server, profile: Path, content: dict[str, str]) -> dict[str, Any]:
    """What a browser makes of the pages; ``server.asked`` is what it asked for meanwhile."""
    for name, text in content.items():
        (server.folder / name).write_text(text, encoding="utf-8")
    probe = PROBE.replace("NAMES", json.dumps(list(content)))
    (server.folder / "probe.html").write_text(probe, encoding="utf-8")
    server.asked.clear()
    assert CHROMIUM
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", f"{server.url}/probe.html",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    written = re.search('<pre id="told">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    assert written and written[1], done.stdout.decode()[-2000:]
    return json.loads(written[1])


@pytest.fixture
def browse(server, tmp_path) -> Callable[[dict[str, str]], dict[str, Any]]:
    """Opens pages in a real browser."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    return functools.partial(look, server, tmp_path)


def test_nothing_of_a_hostile_trial_runs_or_becomes_part_of_the_page(server, summaries, browse):
    pages = {f"{state}.html": report.render(found) for state, found in summaries.items()}
    pages["free.html"] = without_policy(pages["hostile.html"])
    pages |= {f"{state}.svg": str(report.endpoint(found)) for state, found in summaries.items()}
    told = browse(pages)
    assert set(server.asked) - {"/favicon.ico"} == {"/probe.html", *(f"/{name}" for name in pages)}
    for place, seen in told.items():
        name, width = place.split(" at ")
        harmless = told[f"harmless{Path(name).suffix} at {width}"]
        assert seen["owned"] == [None, None, None, False], place
        assert seen["idents"] == harmless["idents"], place
        for part in ("tags", "attributes"):
            assert not set(seen[part]) - set(harmless[part]), place
        if name.endswith(".html"):
            assert seen["shown"] > 10 and seen["count"] == harmless["count"], place
            assert seen["wide"][0] <= seen["wide"][1], place
            assert (seen["cut"], seen["beyond"]) == (0, []), place


def test_what_is_not_escaped_would_run(server, summaries, browse, monkeypatch):
    monkeypatch.setattr("controlarm.markup.html.escape", str)
    small = summaries["hostile"] | {"rollouts": []}
    told = browse({"open.html": without_policy(report.render(small))})
    assert "/canary" in server.asked
    assert "failed" in told or any(
        seen["owned"] != [None, None, None, False] for seen in told.values()
    )
