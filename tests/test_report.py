"""The report: safe with any names, one file, usable by mouse, touch, keyboard and printer."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.data import images, manifest
from hairline.inspection import exif, records, report, tables
from hairline.inspection.report.entries import tiles_on
from hairline.inspection.tiles import grid
from hairline.inspection.traces import Region

NAMES = [
    "plain.jpg",
    'it\'s "quoted" & co.jpg',
    "</script><script>document.title='broken'<b>.jpg",
    "☃ 😀 größer.jpg",
    "$rows {x} {{ y }} {% z %}.jpg",
    "two\nlines \u202egpj.exe",
    os.fsdecode(b"latin-\xe9.jpg"),
    "=1+1.jpg",
]
SHOWN = [*NAMES[:5], "two\\nlines \\u202egpj.exe", "latin-\\udce9.jpg", NAMES[7]]
WIDTH, HEIGHT, TILE = 1600, 1200, 200
TRACE = [[100, 100], [700, 100]]  # along the middle of the first row of tiles


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    grey = np.random.default_rng(seed).integers(90, 200, (height // 8, width // 8), dtype=np.uint8)
    return images.encoded(Image.fromarray(grey).resize((width, height)).convert("RGB"), "JPEG")


def heat_map() -> bytes:
    return images.encoded(Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8), (96, 1))), "PNG")


VERDICTS = ["cracked", "not cracked", "cannot tell", "unfamiliar"]


def rows(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """Write images and records like an inspection; return the rows of photos.csv."""
    table = []
    thumbnail, photo, heat = base64.b64encode(jpeg(240, 180)).decode(), jpeg(WIDTH, HEIGHT), heat_map()
    boxes = grid(WIDTH, HEIGHT, tile_px=TILE, stride_px=TILE).boxes()
    for number, name in enumerate(names):
        path = folder / "photos" / name
        places = {}
        for kind, content in {"overlays": photo, "heatmaps": heat, "photos_small": photo}.items():
            places[kind] = records.picture_path(path, kind)
            (folder / kind).mkdir(exist_ok=True)
            (folder / places[kind]).write_bytes(content)
        verdict = VERDICTS[number % 4]
        position = {} if number % 3 == 2 else {"latitude": 52.5 + number * 1e-4, "longitude": 13.25 - number * 1e-4}
        regions = [
            Region(100, 80, 600, 40, 24_000, 0.9, length_px=600.0, path=TRACE),
            Region(900, 700, 300, 300, 9_000, 0.8, length_px=424.0, path=[[900, 700], [1200, 1000]]),
        ]
        scores = [0.9 if index < 4 else 0.01 for index in range(len(boxes))]
        record = records.Record(
            path=str(path), header=exif.Header(WIDTH, HEIGHT, f"2026-05-{1 + number % 28:02}T10:00:00", **position),
            label="", verdict=verdict, evidence=(number * 7 % 100) / 100, highest_probability=0.9,
            positive_share=0.1, cannot_tell_share=0.0, distance=0.5, notes=[],
            faults=[f"smaller than a patch ({number} pixels): enlarged"] if number % 2 else [],
            regions=regions if verdict == "cracked" else [],
            tiles={**{key: boxes[:, column].tolist() for column, key in enumerate(("x", "y", "width", "height"))},
                   "predicted": ["cracked" if score > 0.5 else "plain" for score in scores], "prob_cracked": scores},
            overlay=places["overlays"].as_posix(), heatmap=places["heatmaps"].as_posix(),
            photo_small=places["photos_small"].as_posix(), thumbnail=thumbnail,
        )  # fmt: skip
        records.write_record(folder, path, {}, record)
        table.append(tables.photo_row(record, None))
    return table


def write(folder: Path, table: list[dict[str, Any]], **changes: Any) -> None:
    root = folder / "photos"
    settings: dict[str, Any] = {
        "problems": {root / "<i>broken</i>.jpg": 'not an "image" <b>'},
        "remarks": {table[1]["path"]: ["smaller than a patch (1 pixel): <b>"]} if len(table) > 1 else {},
        "facts": {"Model": "run"}, "class_names": ["cracked", "plain"], "positive": "cracked",
        "mm_per_pixel": None,  "root": root, "retrain": "python train.py base=run",
        "identity": "settings", "embed_megabytes": 40.0, "max_photos": 2000,
    }  # fmt: skip
    report.write(folder, table, **{**settings, **changes})


class Page(HTMLParser):
    """All elements with their attributes, the text between them, and the contents of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag in ("script", "style"):
            self.raw.append((attributes, data))
        self.text += data


def page(folder: Path) -> Page:
    return Page((folder / report.REPORT).read_text(encoding="utf-8"))


def entries(parsed: Page) -> list[dict[str, Any]]:
    texts = [text for attributes, text in parsed.raw if attributes == {"type": "application/json"} and text.strip()]
    return [json.loads(text) for text in texts]


def embedded(parsed: Page) -> list[str | None]:
    return [attributes["data-file"] for _, attributes in parsed.elements if attributes.get("type") == "text/plain"]


def test_names_are_text_and_the_page_needs_no_network(tmp_path: Path) -> None:
    write(tmp_path, rows(tmp_path, NAMES))
    parsed = page(tmp_path)
    for name in SHOWN:
        assert name in parsed.text
    assert {entry["name"] for entry in entries(parsed)} == set(NAMES)
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert [attributes for attributes in scripts if "type" not in attributes] == [{}]
    assert len(embedded(parsed)) == 2 * len(NAMES)
    tags = {tag for tag, _ in parsed.elements}
    assert not {"link", "iframe", "object", "embed"} & tags
    for _, attributes in parsed.elements:
        for name in ("src", "href", "action", "srcset"):
            assert re.match(r"data:image/jpeg;base64,", attributes.get(name) or "data:image/jpeg;base64,")
        assert "style" not in attributes
    assert [tag for tag, attributes in parsed.elements if any(name.startswith("on") for name in attributes)] == []


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, rows(tmp_path, NAMES))
    parsed = page(tmp_path)
    policy = next(attributes["content"] for tag, attributes in parsed.elements if "http-equiv" in attributes)
    assert policy is not None
    assert "default-src 'none'" in policy
    style, script = (text for attributes, text in parsed.raw if attributes == {} and text.strip())
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy


def test_what_is_embedded_is_bounded(tmp_path: Path) -> None:
    table = rows(tmp_path, [f"{number}.jpg" for number in range(12)])
    size = sum(len(base64.b64encode((tmp_path / table[0][key]).read_bytes())) for key in ("photo_small", "heatmap"))
    write(tmp_path, table, embed_megabytes=3.5 * size / 1e6, max_photos=10)
    parsed = page(tmp_path)
    first = [row["path"] for row in sorted(table, key=lambda row: -row["evidence"]) if row["verdict"] == "cracked"]
    assert len(embedded(parsed)) in (6, 7)
    assert embedded(parsed)[:6:2] == [records.picture_path(Path(path), "photos_small").as_posix() for path in first]
    assert len(entries(parsed)) == 10
    assert "10 of 12 photos are listed" in parsed.text
    write(tmp_path, table, embed_megabytes=0)
    assert embedded(page(tmp_path)) == []


def test_remarks_are_collapsed_and_counted_by_reason(tmp_path: Path) -> None:
    table = rows(tmp_path, [f"{number}.jpg" for number in range(13)])
    write(tmp_path, table, remarks={row["path"]: ["smaller than a patch (1 pixel): enlarged"] for row in table})
    parsed = page(tmp_path)
    assert "smaller than a patch: 13 photos" in parsed.text
    details = [attributes for tag, attributes in parsed.elements if tag == "details"]
    assert details
    assert not any("open" in attributes for attributes in details)


def test_marks_belong_to_the_settings_and_the_folder(tmp_path: Path) -> None:
    table = rows(tmp_path, ["a.jpg"])

    def identity(**changes: Any) -> str:
        write(tmp_path, table, **changes)
        return str(
            json.loads(next(text for attributes, text in page(tmp_path).raw if attributes.get("id")))["identity"]
        )

    assert identity() == identity()
    assert len({identity(), identity(identity="others"), identity(root=tmp_path)}) == 3


def test_a_report_without_any_photo(tmp_path: Path) -> None:
    write(tmp_path, [])
    assert "<i>broken</i>.jpg" in page(tmp_path).text


def test_a_trace_is_shown_by_the_tiles_that_it_runs_through() -> None:
    boxes = grid(WIDTH, HEIGHT, tile_px=TILE, stride_px=TILE).boxes()
    assert tiles_on([[100, 100], [700, 100]], boxes) == [0, 1, 2, 3]
    # Ten pixels in the fifth tile are too few to be seen in it.
    assert tiles_on([[100, 100], [810, 100]], boxes) == [0, 1, 2, 3]
    assert tiles_on([[100, 100], [900, 100]], boxes) == [0, 1, 2, 3, 4]
    assert tiles_on([[250, 250], [255, 255]], boxes) == [9]
    assert tiles_on([[250, 250]], boxes) == [9]
    assert tiles_on([], boxes) == []
    assert tiles_on([[1500, 1100], [1550, 1150]], boxes) == [len(boxes) - 1]
    overlapping = grid(400, 200, tile_px=200, stride_px=100).boxes()
    assert tiles_on([[60, 100], [140, 100]], overlapping) == [0]
    assert tiles_on([[180, 100], [220, 100]], overlapping) == [1]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(0.4, "px", "0 px"), (12_345.6, "px", "12,346 px"), (999.4, "mm", "999 mm"), (1234.0, "mm", "1.23 m")],
)
def test_lengths(value: float, unit: str, expected: str) -> None:
    assert report.measure(value, unit) == expected


def test_the_parts_of_a_path_stay_whole() -> None:
    assert str(report.by_part("a/b_<c>.jpg")) == "<span>a/</span><span>b_<wbr>&lt;c&gt;.jpg</span>"


# --- in a browser -----------------------------------------------------------------------------------------------------


class Tab:
    """A page that was opened from disk, and what it asked for and said."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, height: int = 900, **settings: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(file.as_uri())

    def names(self) -> list[str]:
        """Return the names of the visible photos, in their order."""
        rows = self.page.locator("tr.photo:visible .name bdi")
        return [str(name) for name in rows.evaluate_all("all => all.map(one => one.textContent)")]

    def marks(self) -> list[dict[str, Any]]:
        """Return the marks that the browser keeps."""
        text = self.page.evaluate("Object.entries(localStorage).find(([key]) => key.startsWith('hairline'))?.[1]")
        return list(json.loads(text)["marks"].values()) if text else []

    def export(self, folder: Path) -> Path:
        """Export the marks into a folder."""
        self.page.click("#export-open")
        self.page.fill("#export-by", 'A "B", C')
        with self.page.expect_download() as download:
            self.page.click("#export-save")
        download.value.save_as(folder / "labels.csv")
        self.page.click("#export-close")
        return folder / "labels.csv"

    def close(self) -> None:
        """Close it, after checking that it asked for nothing but files and said nothing."""
        assert [url for url in self.requests if not url.startswith(("data:", "file:", "blob:"))] == []
        assert self.messages == []
        self.context.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page by itself, without the folder it was made in."""
    write(tmp_path, rows(tmp_path, NAMES))
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / report.REPORT, tmp_path / "alone")
    return tmp_path / "alone"


@pytest.fixture
def tab(folder: Path, browser: Any) -> Iterator[Tab]:
    with contextlib.closing(Tab(browser, folder / report.REPORT)) as opened:
        yield opened


@pytest.mark.slow
def test_triage_filter_and_order(tab: Tab) -> None:
    page = tab.page
    assert page.title() == "Inspection report: photos"
    assert page.locator(".card b").all_inner_texts() == ["2", "2", "2", "2", "1"]
    assert set(tab.names()) == {*SHOWN, "<i>broken</i>.jpg"}
    assert tab.names()[:2] == [SHOWN[4], SHOWN[0]]  # cracked: evidence 0.28, then 0

    page.click(".card.unfamiliar")
    assert set(tab.names()) == {SHOWN[3], SHOWN[7]}
    assert page.get_attribute(".card.unfamiliar", "aria-pressed") == "true"
    assert page.inner_text("#count") == "2 of 9 photos"
    page.click(".card.unfamiliar")
    assert len(tab.names()) == 9
    page.fill("#text", "script>")
    assert tab.names() == [SHOWN[2]]
    page.fill("#text", "nothing like it")
    assert tab.names() == []
    assert page.is_visible("#none")
    page.fill("#text", "")
    page.select_option("#kind", "failed")
    assert tab.names() == ["<i>broken</i>.jpg"]
    page.select_option("#kind", "")
    page.fill("#from", "2026-05-03")
    page.fill("#to", "2026-05-04")
    assert set(tab.names()) == {SHOWN[2], SHOWN[3]}
    page.fill("#from", "")
    page.fill("#to", "")

    page.select_option("#order", "time")
    assert tab.names() == [*SHOWN, "<i>broken</i>.jpg"]  # one without a date comes last
    page.click("[data-view=table]")
    page.click("th button:has-text('Evidence')")
    values = page.locator("tr.photo:visible .evidence .value").all_inner_texts()
    assert values == sorted(values, reverse=True)
    page.click("th button:has-text('Evidence')")
    assert page.locator("tr.photo:visible .evidence .value").all_inner_texts() == values[::-1]
    assert page.locator("th[aria-sort=ascending]").count() == 1
    page.click("th button:has-text('Verdict')")
    assert tab.names()[:2] == [SHOWN[4], SHOWN[0]]
    assert page.locator("#remarks li:visible").count() == 0
    page.click("#remarks > summary")
    page.click("#remarks details summary")
    assert page.locator("#remarks li:visible").count() == 1


@pytest.mark.slow
def test_layers_zoom_and_next_photo(tab: Tab) -> None:
    page = tab.page
    page.locator("tr.photo:visible .open").first.click()
    page.wait_for_function("document.querySelector('#viewer-photo').naturalWidth === 1600")
    page.wait_for_function("document.querySelector('#viewer-heat').naturalWidth === 128")

    def visible(selector: str) -> bool:
        return bool(
            page.evaluate("it => getComputedStyle(document.querySelector(it)).visibility === 'visible'", selector)
        )

    assert visible(".trace .line")
    assert not visible("#viewer-heat")
    page.click("[data-layer=heat]")
    assert visible("#viewer-heat")
    assert page.is_visible("#legend")
    page.keyboard.press("o")
    assert not visible("#viewer-heat")
    assert not visible(".trace .line")
    page.keyboard.press("2")
    assert visible(".trace .line")

    def box() -> dict[str, float]:
        return dict(page.locator("#sheet").bounding_box())

    whole, stage = box(), page.locator("#stage").bounding_box()
    assert whole["width"] / whole["height"] == pytest.approx(WIDTH / HEIGHT, rel=0.01)
    assert whole["x"] >= stage["x"]
    assert whole["y"] >= stage["y"]
    point = (whole["x"] + 0.25 * whole["width"], whole["y"] + 0.5 * whole["height"])
    page.mouse.move(*point)
    page.mouse.wheel(0, -400)
    zoomed = box()
    assert zoomed["width"] > 1.5 * whole["width"]
    assert (point[0] - zoomed["x"]) / zoomed["width"] == pytest.approx(0.25, abs=0.01)  # what is under the mouse stays
    page.mouse.down()
    page.mouse.move(point[0] - 60, point[1] - 40, steps=3)
    page.mouse.up()
    dragged = box()
    assert dragged["x"] - zoomed["x"] == pytest.approx(-60, abs=6)
    assert dragged["y"] - zoomed["y"] == pytest.approx(-40, abs=6)
    page.keyboard.press("Shift+ArrowLeft")
    assert box()["x"] > dragged["x"]
    page.keyboard.press("0")
    assert box() == whole
    page.keyboard.press("+")
    assert box()["width"] == pytest.approx(1.5 * whole["width"], rel=0.01)
    page.keyboard.press("-")
    assert box()["width"] == pytest.approx(whole["width"], rel=0.01)

    names = [page.inner_text("#viewer-name")]
    while page.is_enabled("#viewer-next"):
        page.keyboard.press("ArrowRight")
        names.append(page.inner_text("#viewer-name"))
    assert len(set(names)) == len(NAMES)
    assert page.inner_text("#viewer-place") == "8 of 8"
    page.click("#viewer-back")
    assert page.inner_text("#viewer-name") == names[-2]
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")


@pytest.mark.slow
def test_marks_are_kept_and_exported(folder: Path, tab: Tab) -> None:
    page = tab.page
    page.locator("tr.photo:visible .open").first.click()
    sheet = page.locator("#sheet").bounding_box()
    scale = sheet["width"] / WIDTH

    def click(x: float, y: float) -> None:
        page.mouse.click(sheet["x"] + x * scale, sheet["y"] + y * scale)

    click(1050, 850)  # on the second trace
    assert page.inner_text("#target") == "Trace 2 of 2"
    page.click("#verdicts .wrong")
    click(300, 103)  # on the first one
    page.keyboard.press("r")
    click(1500, 1100)  # a tile without a trace, the last one
    assert page.inner_text("#target").startswith("Tile, probability 0.01")
    page.click("#verdicts button:has-text('Missed: cracked')")
    click(1500, 100)
    page.keyboard.press("t")
    click(300, 600)
    page.keyboard.press("t")
    page.keyboard.press("u")  # and not any more
    assert {(mark["what"], mark["says"], mark["label"]) for mark in tab.marks()} == {
        ("trace", "wrong", "plain"),
        ("trace", "right", "cracked"),
        ("tile", "right", "cracked"),
        ("tile", "revisit", ""),
    }
    page.keyboard.press("Escape")
    page.select_option("#marked", "revisit")
    assert tab.names() == [SHOWN[4]]
    page.select_option("#marked", "none")
    assert len(tab.names()) == len(NAMES)

    page.reload()
    assert page.inner_text("#marks-count") == "4"
    table = pd.read_csv(tab.export(folder), keep_default_na=False)
    assert list(table) == ["path", "x", "y", "width", "height", "label", "time", "by", "chosen"]
    assert set(table["path"]) == {str(folder.parent / "photos" / NAMES[4])}
    assert set(table["by"]) == {'A "B", C'}
    assert set(table["chosen"]) == {"selected"}
    assert pd.to_datetime(table["time"]).notna().all()
    labels = {(row.x, row.y, row.width, row.height): row.label for row in table.itertuples()}
    first = {(x, 0, TILE, TILE): "cracked" for x in (0, 200, 400, 600)}
    second = {(x, x - 200, TILE, TILE): "plain" for x in (1000,)}
    assert labels.items() >= (first | {(1400, 1000, TILE, TILE): "cracked", (1400, 0, TILE, TILE): ""} | second).items()
    assert len(labels) == len(table)
    page.click("#export-open")
    page.click("#export-clear")
    assert len(tab.marks()) == 4
    page.click("#export-clear")
    assert tab.marks() == []


@pytest.mark.slow
def test_two_tabs_keep_each_others_marks(tab: Tab) -> None:
    other = tab.context.new_page()
    other.goto(tab.page.url)
    for page, place, key in ((tab.page, (1050, 850), "f"), (other, (300, 103), "r"), (tab.page, (1500, 1100), "t")):
        if not page.locator("#sheet").is_visible():
            page.locator("tr.photo:visible .open").first.click()
        sheet = page.locator("#sheet").bounding_box()
        page.mouse.click(
            *(sheet[side] + length * sheet["width"] / WIDTH for side, length in zip("xy", place, strict=True))
        )
        page.keyboard.press(key)
    assert len(tab.marks()) == 3
    for page in (tab.page, other):
        page.wait_for_function("() => document.getElementById('marks-count').textContent === '3'")
        page.reload()
        assert page.inner_text("#marks-count") == "3"


@pytest.mark.slow
def test_any_name_is_exported_as_it_is_on_disk(folder: Path, tab: Tab) -> None:
    page = tab.page
    page.locator("tr.photo:visible .open").first.click()
    for _ in NAMES:
        page.keyboard.press("g")
        page.keyboard.press("r")
        page.keyboard.press("g")
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    file = tab.export(folder)
    table = manifest.read(file, ("path", "label"))
    assert set(table["path"]) == {str(folder.parent / "photos" / name) for name in NAMES}
    page.click("#export-open")
    page.fill("#export-root", "")
    with page.expect_download() as download:
        page.click("#export-save")
    assert set(manifest.read(Path(download.value.path()), ("path", "label"))["path"]) == set(NAMES)


@pytest.mark.slow
def test_the_keyboard_alone(tab: Tab) -> None:
    page = tab.page

    def focused(selector: str) -> bool:
        return bool(page.evaluate("it => document.activeElement.matches(it)", selector))

    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if focused(selector):
                # The focus can be seen.
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
                return
        raise AssertionError(f"{selector} is not reached")

    tab_to(".card.positive")
    page.keyboard.press("Enter")
    assert len(tab.names()) == 2
    page.keyboard.press("/")
    assert focused("#text")
    tab_to("[data-view=table]")
    page.keyboard.press("Space")
    tab_to(".open")
    page.keyboard.press("Enter")
    assert page.is_visible("#viewer")
    assert page.inner_text("#target") == "Trace 1 of 2"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("f")
    page.keyboard.press("g")
    assert page.inner_text("#target") == "Tile, probability 0.90"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#target") == "Tile, probability 0.01"
    page.keyboard.press("r")
    assert [mark["windows"][0][:2] for mark in tab.marks() if mark["what"] == "tile"] == [[200, 200]]
    page.keyboard.press("g")
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    assert page.is_visible("#viewer")
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")
    assert focused(".open")  # the keyboard goes on where it was
    for element in page.locator("button:visible, input:visible, select:visible").all():
        assert element.evaluate(
            "it => (it.getAttribute('aria-label') || it.innerText || it.labels?.[0]?.innerText).trim()"
        )


@pytest.mark.slow
def test_the_map(tab: Tab) -> None:
    page = tab.page
    assert not page.is_visible("#map")
    page.click("[data-view=map]")
    assert page.locator(".marker:visible").count() == 6
    page.locator(".marker.positive").first.hover()
    assert page.is_visible("#peek")
    page.locator(".marker.positive").first.click()
    assert page.is_visible("#viewer")
    page.keyboard.press("Escape")
    page.click(".card.negative")
    assert page.locator(".marker:visible").count() == 1
    page.click(".card.negative")
    page.locator(".marker[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.is_visible("#viewer")


@pytest.mark.slow
def test_on_a_phone(folder: Path, browser: Any) -> None:
    tab = Tab(browser, folder / report.REPORT, 390, 844, has_touch=True, is_mobile=True)
    page = tab.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("tr.photo:visible .open").first.tap()
    page.wait_for_selector("#viewer", state="visible")  # a tap becomes a click after a moment
    for selector in ("#viewer-close", "#sheet", "#viewer-next", "#verdicts .right", "[data-layer=heat]"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= 390.5
        assert box["y"] + box["height"] <= 844.5
    page.locator("#verdicts .right").tap()
    kept = "([key, text]) => key.startsWith('hairline') && Object.keys(JSON.parse(text).marks).length"
    page.wait_for_function(f"() => Object.entries(localStorage).some({kept})")  # a tap becomes a click after a moment
    assert [mark["says"] for mark in tab.marks()] == ["right"]
    page.locator("#viewer-close").tap()
    page.wait_for_selector("#viewer", state="hidden")
    page.locator("tr.photo:visible .open").first.tap()
    page.wait_for_selector("#viewer", state="visible")
    # Last: Chromium may lose a tap right after a pinch.
    before = page.locator("#sheet").bounding_box()
    middle = before["y"] + before["height"] / 2
    session = tab.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60), ("touchEnd", None)):
        points = (
            []
            if apart is None
            else [{"x": 195 - apart, "y": middle, "id": 0}, {"x": 195 + apart, "y": middle, "id": 1}]
        )
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    after = page.locator("#sheet").bounding_box()
    assert 2 * before["width"] < after["width"] < 3.5 * before["width"]
    tab.close()


@pytest.mark.slow
def test_in_print(tab: Tab) -> None:
    page = tab.page
    page.emulate_media(media="print")
    assert not page.is_visible("#controls")
    assert page.locator("tr.photo:visible").count() == len(NAMES) + 1
    style = "getComputedStyle(document.querySelector('#photos thead'))"
    assert page.evaluate(f"{style}.display") == "table-header-group"  # repeated on every page
    heads = page.locator("#photos thead th").all_inner_texts()
    assert heads[:4] == ["Traces", "Photo", "Verdict", "Evidence"]
    assert heads[4:] == ["Highest probability", "Length traced", "Longest", "Taken", "Position"]
    assert not page.locator("#photos thead button:visible").count()  # Chromium repeats text, but not buttons
    assert len(page.pdf()) > 10_000


@pytest.mark.slow
def test_a_report_of_a_thousand_photos_works_on_another_machine(tmp_path: Path, browser: Any) -> None:
    table = rows(tmp_path, [f"IMG_{number:04}.jpg" for number in range(1000)])
    write(tmp_path, table)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in (report.REPORT, "photos_small", "heatmaps", "overlays"):
        (tmp_path / name).rename(moved / name)
    tab = Tab(browser, moved / report.REPORT)
    page = tab.page
    assert page.locator("tr.photo").count() == 1001
    assert len(tab.names()) == 4 * 12 + 1
    page.click("button:has-text('Show all 250') >> nth=0")
    assert len(tab.names()) == 250 + 3 * 12 + 1
    page.fill("#text", "IMG_0999")
    assert tab.names() == ["IMG_0999.jpg"]
    page.locator("tr.photo:visible .open").click()  # not embedded: it comes from the folder beside the page
    page.wait_for_function("document.querySelector('#viewer-photo').naturalWidth === 1600")
    page.wait_for_function("document.querySelector('#viewer-heat').naturalWidth === 128")
    assert not page.is_visible("#viewer-missing")
    tab.close()


@pytest.mark.slow
def test_a_photo_that_is_not_there_is_shown_small(tmp_path: Path, browser: Any) -> None:
    write(tmp_path, rows(tmp_path, NAMES[:1]), embed_megabytes=0)
    (tmp_path / "alone").mkdir()
    tab = Tab(browser, Path(shutil.copy(tmp_path / report.REPORT, tmp_path / "alone")))
    tab.page.locator(".open").first.click()
    tab.page.wait_for_function("document.querySelector('#viewer-photo').naturalWidth === 240")
    assert "photos_small" in tab.page.inner_text("#viewer-missing")
    tab.messages = [text for text in tab.messages if "ERR_FILE_NOT_FOUND" not in text]
    tab.close()
