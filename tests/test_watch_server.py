"""The live page: what it costs does not grow with who looks, nobody uninvited reads it, and nothing of the folder runs in it."""

import asyncio
import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from controlarm.watch import Sight, Watcher
from controlarm.watch import server as serving
from controlarm.watch.page import PARTS
from controlarm.watch.server import AddressError, Stage
from tests.fabricate import fabricate
from tests.hostile import CANARY, MARKUP, NASTY, harm, protocol_of
from tests.test_watch import SMALL, grow

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trial"
    fabricate(folder, SMALL)
    return folder


@contextmanager
def served(folder: Path, host: str = "127.0.0.1", token: str | None = None) -> Iterator[int]:
    """The port at which a folder is served."""
    listening = serving.listen(host, 0)
    server = serving.server(serving.application(Stage(Sight(Watcher(folder))), host, token))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def asked(port: int, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    yield connection.getresponse()
    connection.close()


def lay(stage: list[tuple[Path, bytes]]) -> None:
    for path, content in stage:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# Who may look.


@pytest.fixture(scope="module")
def guarded(trial) -> Iterator[int]:
    with served(trial, token=TOKEN) as port:
        yield port


@pytest.mark.parametrize("given", [None, "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", TOKEN, "Bearer \xe9"])  # fmt: skip
def test_without_the_token_nothing_of_the_folder_is_told(guarded, given):
    headers = {} if given is None else {"Authorization": given}
    with asked(guarded, "/updates", **headers) as answer:
        assert answer.status == 401
        assert b"ground_truth" not in answer.read()
    for path in ("/", "/page.css", "/page.js", "/watch.js"):
        with asked(guarded, path) as answer:
            assert answer.status == 200
            told = answer.read()
            assert b"ground_truth" not in told and b"fabricated" not in told


def test_with_the_token_all_of_it_is_told(guarded):
    with asked(guarded, "/updates", Authorization=f"Bearer {TOKEN}") as answer:
        assert answer.status == 200
        told = json.loads(answer.readline())
    assert told["title"] == "fabricated"
    assert told["parts"].keys() <= {part.ident for part in PARTS}
    assert "16 of 16 runs finished" in told["parts"]["facts"]


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:9", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("LocalHost", 200), ("evil.example", 421),
     ("127.0.0.1.evil.example:80", 421), ("localhost.evil.example", 421), ("[::2]", 421), ("", 421)],
)  # fmt: skip
def test_only_its_own_names_are_answered(guarded, host, status):
    with asked(guarded, "/", Host=host) as answer:
        assert answer.status == status


def test_another_page_cannot_make_a_browser_ask(guarded):
    for site, status in (
        ("cross-site", 403),
        ("same-site", 403),
        ("same-origin", 200),
        ("none", 200),
    ):
        headers = {"Sec-Fetch-Site": site, "Authorization": f"Bearer {TOKEN}"}
        with asked(guarded, "/updates", **headers) as answer:
            assert answer.status == status


def test_every_answer_says_what_the_page_may_do(guarded):
    for path, headers in (
        ("/", {}),
        ("/updates", {}),
        ("/nowhere", {}),
        ("/", {"Host": "evil.example"}),
    ):
        with asked(guarded, path, **headers) as answer:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_strangers_could_reach_needs_a_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        serving.check_address(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(AddressError, match="--token"):
            serving.check_address(host, None)
        serving.check_address(host, TOKEN)
    for short in ("", "x" * 15, "é" * 20):
        with pytest.raises(AddressError, match="--token"):
            serving.check_address("127.0.0.1", short)


# What it costs.


class Counted(Sight):
    """Counts how often the folder is looked at."""

    looks = 0

    def look(self, now: float) -> bool:
        self.looks += 1
        return super().look(now)


def test_twenty_viewers_are_sent_the_same_bytes_of_one_look(trial, tmp_path, monkeypatch):
    """And what they were sent, one upon the other, is the page; nobody is sent a part that has not changed."""
    monkeypatch.setattr(serving, "PERIOD", 0.02)
    monkeypatch.setattr(serving, "SHARE", 10.0)
    monkeypatch.setattr(serving, "DRAWING", 0.0)  # a chart a look, so that all have their turn
    folder = tmp_path / "grown"
    folder.mkdir()
    sight = Counted(Watcher(folder))
    stage = Stage(sight)
    received: list[list[bytes]] = [[] for _ in range(20)]

    def page(mine: list[bytes]) -> dict[str, str]:
        shown: dict[str, str] = {}
        for message in mine:
            parts = json.loads(message)["parts"]
            assert all(shown.get(ident) != markup for ident, markup in parts.items())
            shown |= parts
        return shown

    async def view(mine: list[bytes], go_on: asyncio.Event) -> None:
        async for message in stage.updates():
            mine.append(message)
            await go_on.wait()

    async def play() -> None:
        always, afterwards = asyncio.Event(), asyncio.Event()
        always.set()
        viewers = [
            asyncio.create_task(view(mine, always if i else afterwards)) for i, mine in enumerate(received)
        ]  # fmt: skip
        follower = asyncio.create_task(stage.follow())
        for files in grow(trial, folder)[:8]:
            lay(files)
            before = stage.version
            while stage.version == before:
                await asyncio.sleep(0.02)
        afterwards.set()  # one viewer was so slow that it had read the first message alone
        whole = Sight(Watcher(folder))
        whole.look(time.time())
        wanted = {part.ident: str(part.build(whole)) for part in PARTS}
        async with asyncio.timeout(120):
            while not all(page(mine) == wanted for mine in received[:2]):
                await asyncio.sleep(0.1)
        for task in (follower, *viewers):
            task.cancel()

    with ThreadPoolExecutor(1) as apart:  # a browser of another test may have a loop in this thread
        apart.submit(asyncio.run, play()).result()
    assert sight.looks >= 8
    for mine in received[2:]:
        assert all(a is b for a, b in zip(mine, received[1], strict=True))
    assert len(received[0]) < len(received[1])  # it missed versions, and no part


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])  # fmt: skip
        yield opened
        opened.close()


def test_a_run_grows_while_the_page_is_open(browser, trial, tmp_path, monkeypatch):
    for name in ("SHARE", "DRAWING"):  # the checks of shapes make everything slow
        monkeypatch.setattr(serving, name, 10.0)
    folder = tmp_path / "grown"
    folder.mkdir()
    stages = grow(trial, folder)
    expect = pytest.importorskip("playwright.sync_api").expect
    with served(folder, token=TOKEN) as port:
        page = browser.new_page(viewport={"width": 400, "height": 800})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(f"http://127.0.0.1:{port}/#token={TOKEN}")
        page.get_by_role("heading", name="Not begun").wait_for()
        assert TOKEN not in page.url
        lay(stages[0])
        page.get_by_role("heading", name="fabricated").wait_for()
        for stage in stages[1:4]:
            lay(stage)
        row = page.locator("#arms tbody tr").first
        row.locator("td", has_text="2 training").wait_for()
        page.locator("summary").click()
        lay(stages[4])
        expect(row.locator("td").nth(2)).to_have_text("3")
        for stage in stages[5:]:
            lay(stage)
        page.get_by_text("16 of 16 runs finished").wait_for()
        page.locator("#rollouts .tile").nth(7).wait_for()
        expect(page.locator("#curve-reward path.mean")).to_have_count(8)
        assert page.locator("details").first.get_attribute("open") is not None  # as it was left
        assert page.title() == "fabricated"
        assert page.locator("#live").inner_text() == "live"
        width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= room
        assert wrong == []
        page.close()


class Canary(BaseHTTPRequestHandler):
    """Remembers that anything was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def canary() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Canary,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/canary", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_of_a_hostile_folder_runs_or_becomes_part_of_the_page(browser, canary, tmp_path):
    """Neither under the page's policy nor without one, which stands for a browser that knows none."""
    harmless, hostile = tmp_path / "harmless", tmp_path / "hostile"
    fabricate(harmless, protocol_of("Is it so?"))
    shutil.copytree(harmless, hostile)
    address, asked = canary
    texts = [text.replace(CANARY, address) for text in NASTY.values()]
    harm(
        hostile, [*texts, "w" * 3_000], "".join(t.replace(CANARY, address) for t in MARKUP.values())
    )
    told = {}
    for name, folder, bypass in (
        ("harmless", harmless, False),
        ("hostile", hostile, False),
        ("free", hostile, True),
    ):
        with served(folder) as port:
            context = browser.new_context(bypass_csp=bypass, viewport={"width": 400, "height": 800})
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator("#curve-clip_high svg").first.wait_for()
            page.locator("#rollouts .tile").first.wait_for()
            page.wait_for_timeout(100)
            told[name] = page.evaluate("""() => {
              const all = [...document.querySelectorAll("*")];
              return {
                tags: [...new Set(all.map((e) => e.tagName.toLowerCase()))],
                attributes: [...new Set(all.flatMap((e) => e.getAttributeNames()))],
                owned: [typeof owned, String(document.documentElement.dataset.owned)],
                wide: document.documentElement.scrollWidth <= innerWidth,
              };
            }""")
            assert page.title() == "hostile"
            context.close()
    for name in ("hostile", "free"):
        assert told[name]["owned"] == ["undefined", "undefined"], name
        assert told[name]["wide"], name
        for part in ("tags", "attributes"):
            assert not set(told[name][part]) - set(told["harmless"][part]) - {"b", "ul", "li"}, (name, part)  # fmt: skip
    assert asked == []
