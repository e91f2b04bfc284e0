"""The recipe on real patches of concrete, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import train


@pytest.mark.slow
def test_the_recipe_tells_cracks_from_none(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(real_data / "keras"))
    recipe = ("experiment=recipe_plain", "data.limit=3000", "batch_size=64")
    found = train(tmp_path / "run", real_data / "data" / "metu", settings=recipe)
    assert found["val_accuracy"] >= 0.98
    assert found["test_auroc"] >= 0.99
    assert found["parity_difference"] <= 1e-4
