"""What is said of long work where there is no terminal."""

import logging

import pytest

from hairline.system import progress


def said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, total: int | None, unit: str, course: list
) -> list[str]:
    """Give the lines of work that reaches `course`: pairs of seconds since the start, and units done by then."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    done = 0
    with progress.bar(total, "work", unit) as bar:
        for seconds, reached in course:
            now[0] = 100.0 + seconds
            bar.update(reached - done)
            done = reached
    return caplog.messages


def test_what_went_before_the_first_unit_does_not_count_for_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = said(monkeypatch, caplog, 100, "step", [(30, 1), (35, 6), (41, 23), (51, 43)])
    assert lines == [
        "work: 1 of 100 step",
        "work: 23 of 100 step, 2 step/s, 38 s left",
        "work: 43 of 100 step, 2 step/s, 28 s left",
    ]


def test_slow_units_are_told_in_seconds_each(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    lines = said(monkeypatch, caplog, 5, "photo", [(4, 1), (16, 2)])
    assert lines == ["work: 2 of 5 photo, 12.0 s/photo, 36 s left"]


@pytest.mark.parametrize(
    ("total", "line"),
    [(100_000_000, "work: 45 of 100 MB, 4 MB/s, 14 s left"), (None, "work: 45 MB, 4 MB/s")],
)
def test_bytes_are_told_in_megabytes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, total: int | None, line: str
) -> None:
    assert said(monkeypatch, caplog, total, "B", [(1, 5_000_000), (11, 45_000_000)]) == [line]
