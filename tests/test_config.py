"""The schema, the choices in conf/, and the checks."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import keras
import pytest

from hairline import config, tracking
from hairline.data import augmentation, sources, splits
from hairline.evaluation import decisions
from hairline.model import backbones, optimizers
from hairline.system import tensorflow
from hairline.training import solve
from tests.running import composed

CONF = Path(__file__).parents[1] / "conf"
CHOICES = sorted(path for path in CONF.glob("*/*.yaml"))


def test_all_choices_are_found() -> None:
    assert len(CHOICES) >= 25
    assert {path.stem for path in CHOICES if path.parent.name == "model"} == set(backbones.BACKBONES)
    assert {path.stem for path in CHOICES if path.parent.name == "data"} == set(sources.SOURCES)
    assert {path.stem for path in CHOICES if path.parent.name == "optimizer"} == {*optimizers.OPTIMIZERS, "lbfgs"}
    assert {path.stem for path in CHOICES if path.parent.name == "schedule"} == set(optimizers.SCHEDULES)


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_choice_composes(path: Path, two_classes: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n")
    group = path.parent.name
    place = {"folder": two_classes, "manifest": tmp_path / "list.csv"}.get(path.stem)
    found = composed("config", f"{group}={path.stem}", *([f"data.path={place}"] if group == "data" and place else []))
    assert isinstance(found, config.Config)


def test_defaults() -> None:
    found = composed("config")
    assert (found.data.source, found.model.backbone, found.optimizer.name) == ("synthetic", "mobilenetv2", "adam")
    assert (found.split.train, found.split.val, found.split.test) == (0.70, 0.24, 0.06)
    assert (found.image_size, found.epochs, found.seed) == (160, 10, 0)


def test_the_recipe_is_the_recipe() -> None:
    found = composed("config", "experiment=recipe")
    assert (found.batch_size, found.epochs, found.image_size) == (512, 10, 160)
    assert (found.model.backbone, found.model.weights) == ("mobilenetv2", "imagenet")


def keywords(function: object) -> set[str]:
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()  # type: ignore[arg-type]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def fields(schema: type, *without: str) -> set[str]:
    return {field.name for field in dataclasses.fields(schema)} - set(without)


def test_groups_are_the_keyword_arguments_of_their_function() -> None:
    shared = fields(config.Data)
    for name, source in sources.SOURCES.items():
        assert fields(config.SCHEMAS[f"data/{name}"]) - shared == keywords(source), name
    assert fields(config.Augment, "mode", "views") == keywords(augmentation.view)
    shared = {"resamples"}
    assert fields(config.SCHEMAS["decision"]) == keywords(decisions.decide) - shared
    assert fields(config.Runtime, "devices") == keywords(tensorflow.prepare) - {"seed"}
    assert fields(config.Tracking, "log_model", "registered_model") == keywords(tracking.start) - {
        "name",
        "tags",
        "directory",
    }
    assert fields(config.Split) == (keywords(splits.group) | keywords(splits.split)) - {"seed"}
    for name, schedule in optimizers.SCHEDULES.items():
        assert fields(config.SCHEMAS[f"schedule/{name}"]) - fields(config.Schedule) == keywords(schedule), name
    assert fields(config.SCHEMAS["optimizer/lbfgs"], "name") < keywords(solve.solve)
    for name, optimizer in optimizers.OPTIMIZERS.items():
        accepted = set(inspect.signature(optimizer).parameters)
        assert fields(config.SCHEMAS[f"optimizer/{name}"], "name") <= accepted, name
        assert isinstance(
            optimizers.build(**config.arguments(config.SCHEMAS[f"optimizer/{name}"](name=name)), learning_rate=0.1),
            keras.optimizers.Optimizer,
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["split.train=0.5"], r"sum to 0.8.*0.7, 0.24 and 0.06"),
        (["model.backbone=mobilnetv2"], r"Did you mean 'mobilenetv2'"),
        (["image_size=16"], r"image_size=16: mobilenetv2 needs images of at least 32 pixels"),
        (["data=folder"], r"data.path is missing: add data.path="),
        (["data=folder", "data.path=does/not/exist"], r"nothing is there"),
        (["data=folder", "data.path=''"], r"the path is empty"),
        (["data=manifest", "data.path=."], r"expected a CSV file; for a folder of images use data=folder"),
        (["batch_size=0"], r"batch_size=0: expected a number above 0"),
        (["learning_rate=nan"], r"learning_rate=nan: expected a finite number"),
        (["augment.views=3"], r"nothing varies between views: choose augment=light"),
        (["finetune=top", "finetune.epochs=0"], r"finetune.epochs=0: expected a number above 0"),
        (["augment.mode=fresh"], r"nothing varies between views"),
        (["seed=-1"], r"seed=-1: expected a whole number from 0"),
        (["model.dropout=1"], r"model.dropout=1: expected a number from 0"),
        (["model.weights=nowhere.h5"], r"'nowhere.h5': expected auto, imagenet, synthetic, random, or the path of"),
        (["model.taps=[block_6_expand_relu]"], r"'block_6_expand_relu' is not a tap; .*block_6_expand_relu:max"),
        (["model.taps=[a:mean]"], r"'a:mean' is not a tap; expected <layer>:max or <layer>:average"),
        (["model.taps=[a:max,a:max]"], r"a tap occurs twice"),
        (["split.group_by=regex"], r"needs split.pattern"),
        (["model=resnet50v2", "model.weights=synthetic"], r"resnet50v2 has no built-in weights; use model=mobilenetv2"),
        (["data.crops=5"], r"data.crops=5: expected a number from 0 \(none\) to 4 parts"),
        (["data.mix=-0.5", "data.mix_seed=-1"], r"(?s)data.mix=-0.5: expected a number from 0.*data.mix_seed=-1"),
        (["data.classes=7"], r"draws 2 or 3 classes"),
        (["decision.threshold=recal"], r"decision.threshold=recal: expected recall, f1, or a probability"),
        (["decision.threshold=1.5"], r"decision.threshold=1.5: expected recall, f1, or a probability"),
        (["decision.standard_errors=-1"], r"decision.standard_errors=-1: expected a number from 0"),
        (["decision.target_recall=1"], r"decision.target_recall=1: expected a share between 0 and 1"),
        (["decision.abstain=[0.7,0.3]"], r"decision.abstain=\[0.7, 0.3\]: expected two rising probabilities"),
        (["repeats=0"], r"repeats=0: expected a number above 0"),
        (["repeats=2", "finetune=top"], r"repeats measures heads on frozen features"),
        (["optimizer=lbfgs", "finetune=top"], r"optimizer=lbfgs solves a head on frozen features: .*finetune=none"),
        (["optimizer=lbfgs", "augment=light", "augment.mode=fresh"], r"it goes with augment.mode=views only"),
        (["optimizer=lbfgs", "model.dropout=0.1"], r"it goes with model.dropout=0 only"),
        (["optimizer=lbfgs", "repeats=2"], r"the same head for every seed: it goes with repeats=1 only"),
        (["optimizer=lbfgs", "optimizer.l2=-1"], r"optimizer.l2=-1: expected a number from 0"),
        (["optimizer=lbfgs", "optimizer.iterations=0"], r"optimizer.iterations=0: expected a number from 1"),
        (["tags={a: b}", "data.max_rejected=2"], r"data.max_rejected=2"),
    ],
)  # fmt: skip
def test_faults_say_what_to_do(overrides: list[str], message: str) -> None:
    with pytest.raises(config.ConfigError, match=re.compile(message, re.DOTALL)):
        composed("config", *overrides)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(config.ConfigError) as caught:
        composed("config", "batch_size=0", "epochs=-1", "model.backbone=x", "split.val=0.9")
    assert len(str(caught.value).splitlines()) == 4


def test_identity_changes_exactly_with_what_changes_numbers() -> None:
    base = config.identity(composed("config"))
    assert base == config.identity(composed("config"))
    for same in (
        "name=x",
        "tags.a=b",
        "tracking=none",
        "report.level=light",
        "tracking.experiment=y",
        "runtime.threads=1",
    ):
        assert config.identity(composed("config", same)) == base, same
    different = ["seed=1", "batch_size=65", "image_size=161", "epochs=9", "learning_rate=0.002", "optimizer=sgd"]
    different += [
        "schedule=cosine",
        "augment=light",
        "finetune=top",
        "model.dropout=0.1",
        "data.limit=9",
        "split.group_by=none",
        "decision=f1",
        "decision.threshold=0.4",
        "decision.calibration=none",
        "repeats=3",
    ]
    found = {config.identity(composed("config", other)) for other in different}
    assert len(found) == len(different)
    assert base not in found


def test_saved_configuration_reads_back(tmp_path: Path) -> None:
    found = composed("config", "data.limit=7", "optimizer=lion", "tags.site='bridge: 7'")
    config.save(found, tmp_path / "config.yaml")
    assert config.read(tmp_path / "config.yaml") == found


def test_resume_compares_only_what_was_overridden(tmp_path: Path) -> None:
    saved = composed("config", "seed=3", "optimizer=sgd")
    config.save(saved, tmp_path / "config.yaml")
    again = [f"resume={tmp_path}", "seed=3", "name=other", "optimizer=sgd"]
    assert config.resumed(composed("config", again[0]), again[:1]) == dataclasses.replace(saved, resume=str(tmp_path))
    found = config.resumed(composed("config", *again, "tags.site=bridge"), [*again, "tags.site=bridge"])
    assert found == dataclasses.replace(saved, resume=str(tmp_path), name="other", tags={"site": "bridge"})
    assert config.identity(found) == config.identity(saved)
    wrong = [f"resume={tmp_path}", "seed=4", "epochs=2", "optimizer=adam"]
    with pytest.raises(
        config.ConfigError, match=r"(?s)epochs: the run has 10.*optimizer.name.*seed: the run has 3, .* 4"
    ):
        config.resumed(composed("config", *wrong), wrong)
    with pytest.raises(config.ConfigError, match=r"no configuration"):
        config.resumed(composed("config", "resume=nowhere"), ["resume=nowhere"])
