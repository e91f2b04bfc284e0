"""The pool of an inspection: results in order, no deadlock, errors, and how many threads and photos it takes."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hairline.data import images
from hairline.inspection import predict
from hairline.model.engine import Pool
from tests import darkness
from tests.running import composed


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_of_the_pool_share_their_work_in_order(workers: int) -> None:
    pool = Pool(workers)

    def total(photo: int) -> list[int]:
        return pool.map(lambda tile: 100 * photo + tile, range(7))

    expected = [[100 * photo + tile for tile in range(7)] for photo in range(20)]
    assert list(pool.map_ordered(total, range(20))) == expected
    assert pool.map(str, []) == []


def test_idle_threads_help_with_one_photo() -> None:
    together = threading.Barrier(4)  # is broken, after the timeout, unless four threads meet
    Pool(3).map(lambda _: together.wait(timeout=30), range(4))


def test_an_error_in_a_helping_thread_is_raised() -> None:
    together = threading.Barrier(2)

    def fail(number: int) -> None:
        together.wait(timeout=30)
        if threading.current_thread() is not threading.main_thread():
            raise images.ImageError("torn")

    with pytest.raises(images.ImageError, match="torn"):
        Pool(1).map(fail, range(2))


def test_a_machine_with_64_threads_gets_few_more_threads_and_decoded_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, photos = 64, 130
    model = darkness.save(tmp_path / "model")
    (tmp_path / "site").mkdir()
    for number in range(photos):
        wall = darkness.wall(5 * darkness.PATCH_PX, 4 * darkness.PATCH_PX, [], seed=number)
        Image.fromarray(wall).save(tmp_path / "site" / f"{number}.jpg")
    lock, counts = threading.Lock(), {"decoded": 0, "most decoded": 0, "threads": 0, "tiles": 0}
    before = threading.active_count()
    upright, resize = images.upright, images.resize

    def count(name: str, by: int) -> None:
        with lock:
            counts[name] += by
            counts["most decoded"] = max(counts["most decoded"], counts["decoded"])
            counts["threads"] = max(counts["threads"], threading.active_count() - before)

    def decode(content: bytes, **options: bool) -> Image.Image:
        picture = upright(content, **options)
        count("decoded", 1)
        weakref.finalize(picture, count, "decoded", -1)
        return picture

    def cut(*arguments: object) -> np.ndarray:
        count("tiles", 1)
        time.sleep(0.005)  # long enough for threads to pile up, if each photo has its own
        return resize(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "upright", decode)
    monkeypatch.setattr(images, "resize", cut)
    chosen = [f"run={model}", f"input={tmp_path}/site", "output=out", f"runtime.threads={threads}"]
    assert predict.inspect_photos(composed("predict", *chosen), tmp_path)[0] == 0
    assert counts["tiles"] == photos * 20
    assert counts["threads"] + 1 <= threads + 8
    assert counts["most decoded"] <= 2 * threads
    assert counts["decoded"] == 0
