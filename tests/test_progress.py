"""Progress without a terminal: log lines with amount, rate and time left."""

import logging

import pytest
import tqdm.std

from hairline.system import progress


@pytest.mark.parametrize(
    ("total", "unit", "course", "expected"),
    [
        # The 30 seconds before the first step are not part of the rate.
        (100, "step", [(30, 1), (35, 6), (41, 23), (51, 43)], ["23 of 100 step, 2.00step/s, 00:38 left",
                                                              "43 of 100 step, 2.00step/s, 00:28 left"]),
        (5, "photo", [(4, 1), (16, 2)], ["2 of 5 photo, 12.00s/photo, 00:35 left"]),
        (100_000_000, "B", [(1, 5_000_000), (11, 45_000_000)], ["45.0M of 100MB, 4.00MB/s, 00:13 left"]),
        (None, "B", [(1, 5_000_000), (11, 45_000_000)], ["45.0MB, 4.00MB/s"]),
    ],
)  # fmt: skip
def test_a_line_every_ten_seconds_tells_amount_rate_and_time_left(
    total: int | None,
    unit: str,
    course: list[tuple[int, int]],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    done = 0
    with progress.bar(total, "work", unit) as bar:
        for seconds, reached in course:
            now[0] = 100.0 + seconds
            bar.update(reached - done)
            done = reached
    assert caplog.messages == [f"work: {line}" for line in expected]


def test_short_work_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(progress.over([3, 5], 2, "work", "step")) == [3, 5]
    assert caplog.messages == []
