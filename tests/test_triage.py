"""Groups of photos, their order, and what the terminal shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hairline.inspection import screen, triage


def row(path: str, verdict: str, evidence: float) -> dict[str, Any]:
    return {"path": path, "verdict": verdict, "evidence": evidence}


ROWS = [
    row("10.jpg", "not cracked", 0.4), row("b.jpg", "cannot tell", 0.2), row("c.jpg", "cracked", 0.7),
    row("d.jpg", "cracked", 0.9), row("9.jpg", "not cracked", 0.4), row("f.jpg", "unfamiliar", 0.99),
]  # fmt: skip


def test_groups_in_the_order_of_need_then_evidence_then_natural_names() -> None:
    ordered = [entry["path"] for entry in triage.sort(ROWS, "cracked")]
    assert ordered == ["d.jpg", "c.jpg", "b.jpg", "f.jpg", "9.jpg", "10.jpg"]
    counts = triage.count(ROWS, 3, "cracked")
    assert counts == {"positive": 2, "doubt": 1, "unfamiliar": 1, "negative": 2, "failed": 3}


def test_another_class_of_several_is_not_the_positive_class() -> None:
    assert [triage.kind(name, "cracked") for name in ("cracked", "spalled", "sound")] == ["positive", *["negative"] * 2]


def text(rows: list[dict[str, Any]], **changes: Any) -> str:
    settings: dict[str, Any] = {"problems": {}, "remarks": {}, "others": [], "positive": "cracked"}
    return screen.summary(rows, **settings | changes)


def test_only_photos_that_need_a_person_are_named() -> None:
    shown = text(ROWS)
    assert all(entry["path"] in shown for entry in ROWS if entry["verdict"] != "not cracked")
    assert "10.jpg" not in shown
    assert "      2  not cracked\n" in shown
    assert shown.index("d.jpg") < shown.index("c.jpg")


def test_a_group_takes_at_most_ten_lines() -> None:
    rows = [row(f"{number}.jpg", "cracked", 1 - number / 100) for number in range(35)]
    problems = {Path(f"broken{number}.jpg"): f"not an image: byte {number}" for number in range(35)}
    problems |= {Path(f"big{number}.jpg"): f"{number} megapixels" for number in range(1)}
    shown = text(rows, problems=problems)
    for title in ("cracked: ", "not inspected: not an image"):
        (block,) = (block for block in shown.split("\n\n") if block.startswith(title))
        assert len(block.splitlines()) == 1 + 10
        assert "and 26 more" in block.splitlines()[-1]
    assert "8.jpg" in shown
    assert "not inspected: 0 megapixels\n" in shown


def test_a_reason_without_details_is_not_repeated() -> None:
    shown = text([], problems={Path("a.jpg"): "not an image", Path("b.jpg"): "big (9 MB)"}, others=[Path("notes.txt")])
    assert "not inspected: not an image\n         a.jpg\n" in shown
    assert "not inspected: big\n         b.jpg: big (9 MB)" in shown
    assert "      1  file that is not an image, skipped: notes.txt" in shown


def test_exactly_ten_photos_are_all_named() -> None:
    shown = text([row(f"{number}.jpg", "cannot tell", 0.5) for number in range(10)])
    assert "more" not in shown
    assert "9.jpg" in shown


def test_each_remark_is_printed_once_with_its_count() -> None:
    remarks = {f"{number}.jpg": [f"smaller than a patch ({number} x 9 pixels): enlarged"] for number in range(13)}
    remarks["12.jpg"].append("no position")
    shown = text([], remarks=remarks)
    assert shown.count("smaller than a patch") == 1
    assert "     13  0.jpg: smaller than a patch (0 x 9 pixels): enlarged\n" in shown
    assert shown.endswith("      1  12.jpg: no position")


def test_hostile_names_stay_on_their_line() -> None:
    shown = text([row("a\nb\u202e.jpg", "cracked", 1.0)], problems={Path("c\rd.jpg"): "x\ny"}, others=[Path("e\n.txt")])
    assert len(shown.splitlines()) == 3 + 3 + 3
    assert "a\\nb\\u202e.jpg" in shown
