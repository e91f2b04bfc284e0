"""The recipe on real patches of concrete, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import composed, train_with


@pytest.mark.slow
def test_the_recipe_tells_cracks_from_none(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(real_data / "keras"))
    chosen = [
        "experiment=recipe_plain",
        "data=folder",
        f"data.path={real_data / 'data' / 'metu'}",
        "data.limit=3000",
        "batch_size=64",
    ]
    settings = composed("config", *chosen)
    (tmp_path / "run").mkdir()
    found = train_with(settings, tmp_path / "run", chosen)
    assert found["val_accuracy"] >= 0.98
    assert found["test_auroc"] >= 0.99
    assert found["parity_difference"] <= 1e-4
