"""The report: safe with any names, one file, usable by mouse, keyboard and printer."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hairline.inspection import exif, records, report, tables
from hairline.inspection.tiles import Region

NAMES = [
    "plain.jpg",
    'it\'s "quoted" & co.jpg',
    "<script>document.title='broken'<b>.jpg",
    "☃ 😀 größer.jpg",
    "$rows {x} {{ y }} {% z %}.jpg",
]


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    grey = np.random.default_rng(seed).integers(90, 200, (height // 8, width // 8), dtype=np.uint8)
    Image.fromarray(grey).resize((width, height)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def rows(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Write overlays and records like an inspection; return the rows of photos.csv."""
    table = []
    (folder / records.OVERLAYS).mkdir(exist_ok=True)
    thumbnail, overlay = base64.b64encode(jpeg(240, 180)).decode(), jpeg(1600, 1200)
    for number, name in enumerate(names):
        path = folder / "photos" / name
        place = records.picture_path(path, records.OVERLAYS)
        (folder / place).write_bytes(overlay)
        position = {} if number % 2 else {"latitude": 52.5, "longitude": 13.25}
        record = records.Record(
            path=str(path), header=exif.Header(4032, 3024, f"2026-05-{1 + number % 28:02}T10:00:00", **position),
            label="", verdict=["cracked", "not cracked", "cannot tell"][number % 3], evidence=(number * 7 % 100) / 100,
            highest_probability=(number * 7 % 100) / 100, positive_share=0.01 * (number % 3 == 0) * (number % 9),
            cannot_tell_share=0.0, distance=0.5, faults=[], notes=[],
            regions=[Region(0, 0, 3, 4, 12, 0.9)] * (number % 4), tiles={"x": [0] * 252},
            overlay=place.as_posix(), heatmap="", photo_small="", thumbnail=thumbnail,
        )  # fmt: skip
        records.write_record(folder, path, {}, record)
        table.append(tables.photo_row(record, None))
    return table


def write(folder: Path, table: list[dict[str, Any]], **changes: Any) -> None:
    root = folder / "photos"
    settings: dict[str, Any] = {
        "facts": {"Model": "run"}, "positive": "cracked", "root": root,
        "to_check": {root / "<i>broken</i>.jpg": 'not an "image" <b>'}, "embed_megabytes": 40.0, "max_photos": 2000,
    }  # fmt: skip
    report.write(folder, table, **{**settings, **changes})


class Page(HTMLParser):
    """All elements with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(folder: Path) -> Page:
    return Page((folder / report.REPORT).read_text(encoding="utf-8"))


def test_names_are_text_and_the_page_needs_no_network(tmp_path: Path) -> None:
    write(tmp_path, rows(tmp_path, NAMES))
    parsed = page(tmp_path)
    for name in NAMES:
        assert name in parsed.text
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert [attributes for attributes in scripts if attributes.get("type") != "text/plain"] == [{}]
    assert len(scripts) == 1 + len(NAMES)
    tags = {tag for tag, _ in parsed.elements}
    assert not {"link", "iframe", "object", "embed"} & tags
    for _, attributes in parsed.elements:
        for name in ("src", "href", "action", "srcset"):
            assert re.match(r"data:image/jpeg;base64,", attributes.get(name) or "data:image/jpeg;base64,")
    assert [tag for tag, attributes in parsed.elements if any(name.startswith("on") for name in attributes)] == []


def test_the_policy_allows_the_one_script(tmp_path: Path) -> None:
    write(tmp_path, rows(tmp_path, NAMES))
    policy = next(attributes["content"] for tag, attributes in page(tmp_path).elements if "http-equiv" in attributes)
    assert policy is not None
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)


def test_worst_first() -> None:
    def row(path: str, predicted: str, share: float, highest: float) -> dict[str, Any]:
        return {"path": path, "verdict": predicted, "cracked_share": share, "highest_probability": highest}

    given = [row("a", "plain", 0, 0.4), row("b", "cannot tell", 0, 0.5), row("c", "cracked", 0.1, 0.9),
             row("d", "cracked", 0.2, 0.8), row("e", "plain", 0, 0.45), row("f", "cannot tell", 0, 0.6)]  # fmt: skip
    assert "".join(entry["path"] for entry in report.sort_worst_first(given, "cracked")) == "dcfbea"
    assert report.count_verdicts(given, "cracked") == {"cracked": 2, "cannot tell": 2, "plain": 2}
    assert report.count_verdicts(given[:1], "cracked") == {"cracked": 0, "plain": 1}


def test_what_is_embedded_is_bounded(tmp_path: Path) -> None:
    table = rows(tmp_path, [f"{number}.jpg" for number in range(12)])
    size = len(base64.b64encode((tmp_path / table[0]["overlay"]).read_bytes())) / 1e6
    write(tmp_path, table, embed_megabytes=3.5 * size, max_photos=10)
    parsed = page(tmp_path)
    assert sum(attributes.get("type") == "text/plain" for _, attributes in parsed.elements) == 3
    assert sum(tag == "tr" for tag, _ in parsed.elements) == 1 + 10
    assert "The 10 worst of 12 photos are listed" in parsed.text
    assert "12" in parsed.text.partition("photos inspected")[0][-10:]


@pytest.mark.parametrize(
    ("share", "expected"), [(0, "0.0 %"), (0.0001, "< 0.1 %"), (0.5, "50.0 %"), (0.9999, "> 99.9 %"), (1, "100.0 %")]
)
def test_little_is_not_nothing(share: float, expected: str) -> None:
    assert report.percent(share) == expected


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        program = program or started.chromium.executable_path  # what `playwright install chromium` brings
        if not Path(program).exists():
            pytest.skip("no Chromium on this machine")
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.slow
def test_in_a_browser(tmp_path: Path, browser: Any) -> None:
    write(tmp_path, rows(tmp_path, NAMES))
    alone = tmp_path / "alone"  # the page by itself, without the folder it was made in
    alone.mkdir()
    shutil.copy(tmp_path / report.REPORT, alone)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    said: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto((alone / report.REPORT).as_uri())
    assert tab.title() == "Inspection report: photos"

    def names() -> list[str]:
        return [text for text in tab.locator("tbody tr:visible").evaluate_all(
            "rows => rows.map(row => row.cells[1].firstChild.textContent)")]  # fmt: skip

    assert set(names()) == set(NAMES)
    tab.click("th button:has-text('Highest probability')")
    values = [float(tab.locator("tbody tr").nth(row).get_attribute("data-highest")) for row in range(len(NAMES))]
    assert values == sorted(values, reverse=True)
    tab.click("th button:has-text('Highest probability')")
    assert tab.locator("th[aria-sort=ascending]").count() == 1
    assert float(tab.locator("tbody tr").first.get_attribute("data-highest")) == min(values)
    tab.click("th button:has-text('Position')")
    positions = [text.strip() for text in tab.locator("tbody tr td:last-child").all_inner_texts()]
    assert positions == sorted(positions, key=lambda text: text == "")  # those without one last

    tab.fill("#text", "script>")
    assert names() == [NAMES[2]]
    assert tab.inner_text("#count") == f"1 of {len(NAMES)} photos"
    tab.fill("#text", "nothing like it")
    assert names() == []
    assert tab.is_visible("#none")
    tab.fill("#text", "")
    tab.select_option("#verdict", "cannot tell")
    assert names() == [NAMES[2]]
    tab.select_option("#verdict", "")
    tab.fill("#least", "0.2")
    assert len(names()) == sum(value >= 0.2 for value in values)
    tab.fill("#least", "")

    def shown() -> int:
        tab.wait_for_function("document.querySelector('#viewer-image').naturalWidth > 0")
        return int(tab.evaluate("document.querySelector('#viewer-image').naturalWidth"))

    tab.click("tbody tr:nth-child(2) .open")
    assert tab.is_visible("dialog#viewer")
    assert shown() == 1600
    tab.click("#viewer-close")
    assert not tab.is_visible("dialog#viewer")
    tab.locator("tbody tr:nth-child(1) .open").focus()
    tab.keyboard.press("Enter")
    assert shown() == 1600
    first = tab.inner_text("#viewer-name")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#viewer-name") != first
    tab.keyboard.press("ArrowLeft")
    assert tab.inner_text("#viewer-name") == first
    tab.keyboard.press("Escape")
    assert not tab.is_visible("dialog#viewer")
    assert tab.evaluate("document.activeElement.className") == "open"  # the keyboard goes on where it was
    tab.keyboard.press("Space")
    assert tab.is_visible("dialog#viewer")
    tab.keyboard.press("Escape")

    tab.emulate_media(media="print")
    assert not tab.is_visible("#controls")
    assert tab.locator("tbody tr:visible").count() == len(NAMES)
    assert len(tab.pdf()) > 10_000
    assert [url for url in asked if not url.startswith("data:")] == [(alone / report.REPORT).as_uri()]
    assert said == []
    tab.close()


@pytest.mark.slow
def test_a_report_of_a_thousand_photos_works(tmp_path: Path, browser: Any) -> None:
    table = rows(tmp_path, [f"IMG_{number:04}.jpg" for number in range(1000)])
    write(tmp_path, table)
    tab = browser.new_page()
    tab.goto((tmp_path / report.REPORT).as_uri())
    assert tab.locator("tbody tr").count() == 1000
    tab.fill("#text", "IMG_0123")
    assert tab.locator("tbody tr:visible").count() == 1
    tab.fill("#text", "")
    last = tab.locator("tbody tr .open").last  # not embedded: it comes from the folder beside the page
    last.click()
    tab.wait_for_function("document.querySelector('#viewer-image').naturalWidth === 1600")
    tab.close()
