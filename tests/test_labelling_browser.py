"""The label page as people use it: in Chromium by keyboard alone, killed at any moment, from photos to a new model."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hairline.data import labels, synthetic
from tests.conftest import ROOT
from tests.running import run, started
from tests.saved_runs import saved_run

pytestmark = pytest.mark.slow

PHOTOS = 600  # of twelve tiles each: more than a fast machine answers in a test
SERVER = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from hairline.labelling import label
from hairline.labelling.pictures import Pictures
from tests.labelled import wall
folder = Path(sys.argv[1])
session = wall(folder, photos=int(sys.argv[2])).open(folder)
classes = [{"name": "cracked", "key": "c"}, {"name": "sound", "key": "s"}]
facts = {"title": "wall", "classes": classes, "file": "labels.csv"}
label.serve(session, Pictures(session.pool), bytes, 0, open_page=False, facts=facts, next_steps=[])
"""


class Killed:
    """A scripted session whose server can be killed; it remembers every answer that was acknowledged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[int, str]] = []

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        with serving(self.folder) as self.process:
            self.address = address_of(self.process)
            yield

    def act(self, action: str, **values: Any) -> dict[str, Any]:
        _, _, host, path = self.address.split("/", 3)
        with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            body = json.dumps({"browser": "script", **values})
            connection.request("POST", f"/{path}act/{action}", body, {"content-type": "application/json"})
            with connection.getresponse() as response:
                return dict(json.loads(response.read()))

    def work(self, generator: random.Random, seconds: float) -> None:
        """Answer until the server is killed, so many seconds after it showed the first tile."""
        tile = self.act("show")["tiles"][0]["tile"]
        until = time.monotonic() + seconds
        while True:
            name = generator.choice(["cracked", "sound"])
            if time.monotonic() > until:
                self.process.send_signal(signal.SIGKILL)  # while the next answer is on its way
            reply = self.act("answer", tile=tile, label=name)
            self.saved.append((tile, name))
            tile = reply["tiles"][0]["tile"]


def serving(folder: Path) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Serve a session on a wall of drawn features."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return started([sys.executable, "-u", "-c", SERVER, str(folder), str(PHOTOS)], env=environment)


@contextlib.contextmanager
def opened(folder: Path, browser: Any) -> Iterator[Any]:
    """Serve a session and show its first tile."""
    with serving(folder) as process:
        page = browser.new_page()
        page.goto(address_of(process))
        page.wait_for_selector("body[data-tile]")
        page.wait_for_function("() => !busy")
        yield page
        page.close()


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", line):
            return found[0]
    raise AssertionError("the server printed no address")


def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    session = Killed(tmp_path)
    for _ in range(20):
        with session.started(), pytest.raises((OSError, http.client.HTTPException)):
            session.work(generator, generator.uniform(0, 0.7))
    lines = [*csv.reader((tmp_path / labels.FILE).read_text().splitlines()[1:])]
    places = [tuple(line[:3]) for line in lines]
    assert len(set(places)) == len(places)
    assert len(session.saved) <= len(lines) <= len(session.saved) + 20  # an answer on its way may have arrived
    assert len(session.saved) > 20
    written = {(line[0], *map(int, line[1:3])): line[5] for line in lines}
    from tests.labelled import wall

    pool = wall(tmp_path, photos=PHOTOS).pool
    for tile, name in session.saved:
        x, y = pool.boxes[tile, :2].tolist()
        assert written[(pool.photos[pool.photo[tile]], x, y)] == name


def photos(folder: Path) -> Path:
    """Write eight photos of twelve drawn patches each, a third of them cracked."""
    synthetic.render(folder / "patches", count=128, size=64, seed=0, classes=2)
    patches = {name: sorted((folder / "patches" / name).iterdir()) for name in ("cracked", "uncracked")}
    (folder / "photos").mkdir()
    for number in range(8):
        photo = Image.new("RGB", (4 * 64, 3 * 64))
        for place in range(12):
            name = "cracked" if place % 3 == 0 else "uncracked"
            with Image.open(patches[name].pop()) as patch:
                photo.paste(patch, (64 * (place % 4), 64 * (place // 4)))
        photo.save(folder / "photos" / f"{number}.png")
    return folder / "photos"


def truth(place: str) -> str:
    """Return the key of the right answer from the page's text on where a tile lies."""
    x, y = map(int, re.findall(r"[xy] (\d+)", place))
    return "c" if (x // 64 + 4 * (y // 64)) % 3 == 0 else "s"


def test_a_key_counts_while_the_page_asks_for_news(tmp_path: Path, browser: Any) -> None:
    with opened(tmp_path, browser) as page:
        held: list[Any] = []
        page.route("**/act/show", lambda route: held.append(route))
        shown = page.get_attribute("body", "data-tile")
        page.evaluate("void act('show')")
        page.keyboard.press("c")
        page.wait_for_function("shown => document.body.dataset.tile !== shown", arg=shown)
        page.wait_for_function("() => document.querySelector('#progress').textContent.startsWith('1 label,')")
        following = page.get_attribute("body", "data-tile")
        held[0].fulfill(json={"tiles": [], "state": {}})  # comes after the newer one, and is of no account
        page.wait_for_timeout(500)
        assert page.get_attribute("body", "data-tile") == following
        assert page.is_hidden("#error")
        assert page.is_visible("#pictures")


def test_a_correction_that_was_not_saved_can_be_repeated(tmp_path: Path, browser: Any) -> None:
    with opened(tmp_path, browser) as page:
        page.keyboard.press("c")
        page.wait_for_selector("#last button:has-text('cracked')")
        page.wait_for_function("() => !busy")
        shown = page.get_attribute("body", "data-tile")
        page.keyboard.press("e")
        page.route("**/act/correct", lambda route: route.abort())
        page.keyboard.press("s")
        page.wait_for_selector("#error:visible")
        page.unroute("**/act/correct")
        page.evaluate("act('show')")  # news that arrive do not hide that an answer was lost
        assert page.is_visible("#error")
        page.keyboard.press("s")
        page.wait_for_selector("#last button:has-text('sound')")
        page.wait_for_selector("#error", state="hidden")
        assert page.get_attribute("body", "data-tile") == shown
        assert page.eval_on_selector_all("#last button", "all => all.length") == 1


# Whether the yellow frame lies around the tile in the picture of its surroundings, in pixels of the window.
FRAMED = """() => {
  const image = document.querySelector("#surroundings"), box = image.getBoundingClientRect();
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
  const across = image.naturalWidth * scale, down = image.naturalHeight * scale;
  const [left, top, width, height] = tiles[0].frame;
  const frame = document.querySelector("#frame").getBoundingClientRect();
  const expected = [
    box.left + (box.width - across) / 2 + left * across, box.top + (box.height - down) / 2 + top * down,
    width * across, height * down,
  ];
  return [frame.left, frame.top, frame.width, frame.height].every((value, at) => Math.abs(value - expected[at]) < 1);
}"""


def test_a_wall_is_labelled_by_keyboard_and_trained_and_inspected(tmp_path: Path, browser: Any) -> None:
    photos(tmp_path)
    chosen = {"name": "mobilenetv2", "weights": "random"}  # by conf/config.yaml
    saved_run(tmp_path / "base", tmp_path / "patches", **chosen)
    command = [
        sys.executable, "-u", str(ROOT / "label.py"), "run=base", "input=photos", "output=labels", "open=false",
        "tiles.size_px=64",
    ]  # fmt: skip

    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(120_000)  # both cores may be busy
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    def press(key: str) -> None:
        shown = page.get_attribute("body", "data-tile")
        page.keyboard.press(key)
        page.wait_for_function("shown => document.body.dataset.tile !== shown", arg=shown)

    def label(count: int) -> None:
        for _ in range(count):
            press(truth(page.inner_text("#place")))

    with started(command, cwd=tmp_path) as process:
        page.goto(address_of(process))
        page.wait_for_selector("body[data-tile]")
        label(20)
        press("k")
        press("u")
        label(4)
        press("c" if truth(page.inner_text("#place")) == "s" else "s")  # wrong, and corrected below
        page.keyboard.press("e")
        right = page.eval_on_selector("#last button", "button => button.innerText.trim() === 'cracked' ? 's' : 'c'")
        page.keyboard.press(right)
        name = {"c": "cracked", "s": "sound"}[right]
        page.wait_for_function("name => document.querySelector('#last button').innerText.trim() === name", arg=name)
        assert page.inner_text("#progress").startswith("25 labels")
        assert page.eval_on_selector_all("#last button", "all => all.length") == 12
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        page.keyboard.press("h")
        page.wait_for_selector("#heat:visible")
        assert page.inner_text("#legend") == "Red speaks for cracked, blue against it."
        assert page.eval_on_selector("#heat", "image => image.naturalWidth") == 480
        label(1)
        assert page.is_hidden("#heat")
        page.click("#heat-button")
        page.wait_for_selector("#heat:visible")
        page.click("#heat-button")
        assert page.is_hidden("#heat")

        page.goto("about:blank")  # an open page would report that the server is gone
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    with started(command, cwd=tmp_path) as process:
        page.goto(address_of(process))
        page.wait_for_function("() => document.querySelector('#progress').textContent.startsWith('26 labels')")
        page.wait_for_selector("body[data-tile]")
        label(14)
        page.wait_for_function("() => document.querySelector('#estimate').textContent.includes('with 40 labels')")
        for width, height in ((1600, 1000), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_function("width => innerWidth === width", arg=width)
            inside = "e => { const r = e.getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth; }"
            assert all(
                page.eval_on_selector_all("#tile, .answer, #skip, #undo, #heat-button", f"all => all.map({inside})")
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(FRAMED)
        page.focus("#finish-button")
        page.keyboard.press("Enter")
        page.wait_for_selector("#finished[open]")
        commands = page.inner_text("#commands").splitlines()
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert faults == []
    assert {request.split("/")[2] for request in requests if not request.startswith("data:")} <= {
        one.split("/")[2] for one in requests if "127.0.0.1" in one
    }

    table = labels.read(tmp_path / "labels" / labels.FILE)
    assert len(table) == 40
    assert [("c" if name == "cracked" else "s") for name in table["label"]] == [
        truth(f"x {x} y {y}") for x, y in zip(table["x"], table["y"], strict=True)
    ]
    assert len(commands) == 2
    for line, more in zip(commands, (["tracking=none", "features.engine=tensorflow"], []), strict=True):
        _, script, *arguments = shlex.split(line)
        done = run(*arguments, *more, script=script)
        assert done.returncode == 0, done.stdout + done.stderr
    (trained,) = (path.parent for path in (tmp_path / "outputs").glob("*/*/model"))
    images = json.loads((trained / "metrics.json").read_text())
    assert images["train_images"] + images["val_images"] + images["test_images"] == 40
    assert images["test_images"] == (table["chosen"] == labels.RANDOM).sum()
    stored = json.loads((trained / "model" / "bundle.json").read_text())["decision"]["threshold"]
    assert 0 < stored < 1
    assert (tmp_path / "labels-inspection" / "report.html").is_file()
