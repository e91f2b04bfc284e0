"""The lines of a run's end, and its name."""

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest

from hairline.data.prepare import Dataset
from hairline.training import summary


@pytest.mark.parametrize(
    ("phases", "losses", "settings", "kept"),
    [
        ("head head head", [3.0, 1.0, 2.0], {"keep": "best"}, "epoch 2 of 3 (head)"),
        ("head head head", [3.0, 1.0, 1.0], {"keep": "best"}, "epoch 2 of 3 (head)"),
        ("head head head", [3.0, 1.0, 2.0], {"keep": "last"}, None),
        ("head", [3.0], {"keep": "best"}, None),
        ("head head fine-tune", [2.0, 1.0, 3.0], {"keep": "best"}, "epoch 2 of 3 (head)"),
        ("head head fine-tune", [2.0, 1.0, 0.5], {"keep": "best"}, "epoch 3 of 3 (fine-tune)"),
        ("head head head", [2.0, 1.0, 3.0], {"keep": "best", "step": "iteration"}, "iteration 2 of 3 (head)"),
    ],
)
def test_the_kept_epoch_or_iteration_is_named(
    phases: str, losses: list[float], settings: dict[str, str], kept: str | None
) -> None:
    history = pd.DataFrame({"phase": phases.split(), "epoch": range(1, len(losses) + 1), "val_loss": losses})
    text = "" if kept is None else f"weights of {kept}: the lowest validation loss"
    assert summary.kept_epoch(history, **settings) == text


def test_only_weights_that_are_not_from_photographs_are_named() -> None:
    assert "RANDOM" in summary.weights_note("random")
    assert "SYNTHETIC" in summary.weights_note("synthetic")
    assert summary.weights_note("imagenet") == ""


@pytest.mark.parametrize(
    ("images", "accuracy", "loss", "warned"),
    [
        ((10, 30), 0.75, 1e30, True),  # diverged
        ((10, 30), 0.75, 0.5623, True),  # the loss of 1 in 4: -(ln 0.25 + 3 ln 0.75) / 4
        ((10, 30), 0.75, 0.5, False),  # all are called b, but ranked well
        ((10, 30), 0.8, 0.9, False),
        ((5, 10), 0.6, 1e30, False),  # too few to say
    ],
)
def test_a_model_that_learned_nothing_is_named(
    images: tuple[int, int], accuracy: float, loss: float, warned: bool
) -> None:
    labels = np.repeat([0, 1], images)
    data = SimpleNamespace(labels=labels, class_names=["a", "b"], rows=lambda split: np.arange(len(labels)))
    note = summary.chance_note(cast(Dataset, data), {"val_accuracy": accuracy, "val_loss": loss})
    expected = (
        "WARNING: on the validation images the model is no better than always answering b (accuracy 0.7500). "
        "Check the labels, learning_rate and model.weights"
    )
    assert note == (expected if warned else "")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "mobilenetv2 adam"),
        (["optimizer=adam", "learning_rate=0.001", "model.dropout=0"], "adam 0.001 drop 0 mobilenetv2"),
        (["data=folder", "data.path=x", "experiment=recipe", "seed=3"], "seed 3 recipe mobilenetv2 adam"),
        (["model=mobilenetv2", "+batch_size=512"], "batch 512 mobilenetv2 adam"),
    ],
)
def test_names_begin_with_what_differs(overrides: list[str], name: str) -> None:
    assert summary.run_name(overrides, "mobilenetv2", "adam") == name


def test_a_metric_that_a_class_without_test_images_leaves_undefined_is_no_number() -> None:
    data = SimpleNamespace(positive=1, split_by="hash")
    at_threshold = ("recall", "specificity", "balanced_accuracy")
    names = ["accuracy", "auroc", "ece", *(f"{name}_at_threshold" for name in at_threshold)]
    metrics = {f"test_{name}": math.nan if name.startswith("specificity") else 0.75 for name in names}
    lines = summary.test_lines(cast(Dataset, data), metrics)
    assert lines[1].split()[-1] == "0.7500"
    assert lines[2].endswith("not defined: a class has no test images")
    assert "nan" not in "".join(lines)
