"""The schema, the choices in conf/, the checks, and the saved form."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import keras
import numpy as np
import pytest
from hydra import compose
from hydra.errors import CompactHydraException
from hypothesis import HealthCheck, given, settings
from omegaconf import OmegaConf

from hairline import config, tracking
from hairline.app import commandline
from hairline.app import settings as app_settings
from hairline.config import checks, schema
from hairline.data import augmentation, prepare, sources, splits
from hairline.evaluation import thresholds
from hairline.model import backbones, optimizers
from hairline.system import errors, tensorflow
from hairline.training import descent, solve
from tests import fuzzing
from tests.conftest import CONF
from tests.running import composed, composing

CHOICES = sorted(path for path in CONF.glob("*/*.yaml"))


# --- schema and choices -----------------------------------------------------------------------------------------------


def test_all_choices_are_found() -> None:
    assert len(CHOICES) >= 25
    choices = {group: {path.stem for path in CHOICES if path.parent.name == group} for group in ("model", "data")}
    assert choices == {"model": set(backbones.BACKBONES), "data": set(sources.SOURCES)}
    assert {path.stem for path in CHOICES if path.parent.name == "optimizer"} == {*optimizers.OPTIMIZERS, "lbfgs"}
    assert {path.stem for path in CHOICES if path.parent.name == "schedule"} == set(optimizers.SCHEDULES)


def test_every_choice_composes() -> None:
    """One of every group at a time, as composing takes long, and without the checks that refuse some of them together.

    Experiments and searches choose in several groups: each is composed alone, and checked.
    """
    groups: dict[str, list[str]] = {}
    for path in CHOICES:
        groups.setdefault(path.parent.name, []).append(path.stem)
    for group in ("experiment", "search"):
        for name in groups.pop(group):
            assert isinstance(composed("config", f"{group}={name}"), config.Config)
    with composing():
        for number in range(max(map(len, groups.values()))):
            chosen = {group: names[number % len(names)] for group, names in groups.items()}
            path = [] if chosen["data"] == "synthetic" else ["data.path=."]
            found = OmegaConf.to_object(compose("config", [*(f"{key}={name}" for key, name in chosen.items()), *path]))
            assert isinstance(found, config.Config), chosen
            assert not list(checks.value_faults(found)), chosen


@pytest.mark.parametrize("script", config.SCRIPTS)
def test_logs_are_utf_8_in_any_locale(script: str) -> None:
    with composing():
        chosen = ["data=synthetic"] if script == "evaluate" else []
        logging = compose(script, chosen, return_hydra_config=True).hydra.job_logging
    assert logging.handlers.file["class"] == "logging.FileHandler"
    assert logging.handlers.file.encoding == "utf-8"


def test_defaults_and_recipe() -> None:
    default = composed("config")
    assert (default.data.source, default.model.backbone, default.optimizer.name) == ("synthetic", "mobilenetv2", "adam")
    assert (default.split.train, default.split.val, default.split.test) == (0.70, 0.24, 0.06)
    assert (default.image_size, default.epochs, default.seed) == (160, 10, 0)
    recipe = composed("config", "experiment=recipe")
    assert (recipe.batch_size, recipe.epochs, recipe.image_size) == (512, 10, 160)
    assert (recipe.model.backbone, recipe.model.weights) == ("mobilenetv2", "imagenet")
    assert (recipe.augment.views, recipe.augment.mode, recipe.augment.flip_horizontal) == (4, "views", True)
    plain = composed("config", "experiment=recipe_plain")
    assert plain == dataclasses.replace(recipe, augment=default.augment)


def settings_of(group: type) -> Iterator[tuple[str, dataclasses.Field[Any], str]]:
    """Yield name, field and type of every setting of a schema that is not a group itself."""
    for field in dataclasses.fields(group):
        kind = get_type_hints(group)[field.name]
        if not dataclasses.is_dataclass(kind):
            yield f"{group.__name__}.{field.name}", field, getattr(kind, "__name__", "") + str(kind)


SETTINGS = [entry for group in vars(schema).values() if dataclasses.is_dataclass(group) for entry in settings_of(group)]
NUMBERS = [entry for entry in SETTINGS if re.search(r"\b(int|float)\b", entry[2])]


def test_every_setting_has_a_help_text_and_every_number_a_range() -> None:
    assert len(SETTINGS) > 120
    assert [name for name, field, _ in SETTINGS if not field.metadata.get("help")] == []
    assert len(NUMBERS) > 50
    assert [name for name, field, _ in NUMBERS if not {"low", "above"} & set(field.metadata)] == []


def test_ranges_hold_the_default_and_end_at_their_bounds() -> None:
    for name, field, kind in NUMBERS:
        step = 1 if "int" in kind else 1e-9
        inside: list[object] = [] if field.default is dataclasses.MISSING else [field.default]
        outside: list[object] = [float("nan"), float("inf")]
        for key, direction in {"low": -step, "high": step}.items():
            if (bound := field.metadata.get(key)) is not None:
                inside.append(bound)
                outside.append(bound + direction * max(1, abs(bound) if step < 1 else 1))
        for key, direction in {"above": step, "below": -step}.items():
            if key in field.metadata:
                inside.append(field.metadata[key] + direction)
                outside.append(field.metadata[key])
        group = dataclasses.make_dataclass("Group", [("x", object, dataclasses.field(metadata=field.metadata))])
        accepted = [value for value in [*inside, *outside] if not list(checks.value_faults(group(value)))]
        assert accepted == inside, name


def keywords(function: object) -> set[str]:
    return {
        name
        for name, parameter in inspect.signature(function).parameters.items()  # type: ignore[arg-type]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def names(group: type, *without: str) -> set[str]:
    return {field.name for field in dataclasses.fields(group)} - set(without)


def test_groups_are_the_keyword_arguments_of_their_function() -> None:
    shared = names(config.Data)
    for name, source in sources.SOURCES.items():
        assert names(config.GROUPS[f"data/{name}"]) - shared == keywords(source), name
    assert names(config.Augment, "mode", "views") == keywords(augmentation.view)
    assert names(config.GROUPS["decision"]) == keywords(thresholds.choose_decision) - {"resamples", "rule"}
    assert names(config.Runtime, "devices", "compute", "ray") == keywords(tensorflow.prepare) - {"seed"}
    run = {"name", "tags", "directory"}
    assert names(config.Tracking, "log_model", "log_diff", "registered_model") == keywords(tracking.start) - run
    assert names(config.Split, "given") == (keywords(splits.group) | keywords(splits.split)) - {"seed", "whole_test"}
    for name, schedule in optimizers.SCHEDULES.items():
        assert names(config.GROUPS[f"schedule/{name}"]) - names(config.Schedule) == keywords(schedule), name
        assert keywords(descent.SCHEDULES[name]) == keywords(schedule), name
    assert names(config.GROUPS["optimizer/lbfgs"], "name") < keywords(solve.solve)
    for name, optimizer in optimizers.OPTIMIZERS.items():
        group = config.GROUPS[f"optimizer/{name}"]
        assert names(group, "name") <= set(inspect.signature(optimizer).parameters), name
        built = optimizers.build(**config.arguments(group(name=name)), learning_rate=0.1)
        assert isinstance(built, keras.optimizers.Optimizer)
        assert names(group, "name", "global_clipnorm") <= keywords(descent.RULES[name][0]), name


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        {
            "split.train=0.5": r"sum to 0.8.*0.7, 0.24 and 0.06",
            "model.backbone=mobilnetv2": r"Did you mean 'mobilenetv2'",
            "data=folder data.path=does/not/exist": r"does/not/exist.*nothing is there",
            "batch_size=0": r"batch_size=0: expected a whole number of at least 1 \(images per batch\)",
            "seed=4294967296": "seed=4294967296: expected a whole number from 0 to 4,294,967,295 ",
            "learning_rate=nan": r"learning_rate=nan: expected a finite number above 0",
            "model.dropout=1": r"model.dropout=1: expected a number of at least 0 and below 1",
            "data.mix=-0.5": r"data.mix=-0.5: expected a number from 0 to 4",
            "data.mix_seed=-1": r"data.mix_seed=-1",
            "schedule=piecewise schedule.boundaries=[0.5,2]": "schedule.boundaries=2: expected a number from 0 to 1",
            "optimizer=lbfgs optimizer.iterations=0": r"iterations=0: expected a whole number from 1 to 1,000,000",
            "augment.views=3": r"all views are equal: choose augment=light",
            "model.weights=nowhere.h5": r"'nowhere.h5': expected auto, imagenet, synthetic, random, or the path of",
            "split.group_by=regex": r"needs split.pattern",
            "decision.threshold=recal": r"decision.threshold=recal: expected recall, f1, or a probability",
            "decision.abstain=[0.7,0.3]": r"decision.abstain=\[0.7, 0.3\]: expected two rising probabilities",
            "tags={a@b:c}": "not a tag name",
            "tracking.experiment=''": "tracking.experiment: the text is empty",
        },
        {
            "image_size=16": r"image_size=16: mobilenetv2 needs images of at least 32 pixels",
            "model.taps=[block_6_expand_relu]": r"'block_6_expand_relu' is not a tap; .*block_6_expand_relu:max",
            "data=folder data.path=''": r"data.path: the text is empty",
            "batch_size=-" + "9" * 400: "batch_size=-9+: expected a whole number",
            "augment.mode=fresh": r"all views are equal",
            "split.pattern='('": "not a regular expression",
            "decision.threshold=1.5": r"decision.threshold=1.5: expected a number above 0 and below 1",
            "tags={a:b} data.max_rejected=2": r"data.max_rejected=2",
            "runtime.compute=ray features.keep=false": r"features.keep=false: the processes of runtime.compute=ray",
            "features.engine=tensorflow": r"run LiteRT; set features.engine=litert",
        },
        {
            "model.taps=[a:mean]": r"'a:mean' is not a tap; expected <layer>:max or <layer>:average",
            "repeats=2 finetune=top": r"repeats measures heads on frozen features: set finetune=none",
            "optimizer=lbfgs": r"optimizer=lbfgs fits a head on frozen features: set finetune=none",
        },
        {
            "data=manifest data.path=.": r"expected a CSV file; for a folder of images use data=folder",
            "model.taps=[a:max,a:max]": r"a tap occurs twice",
            "model=resnet50v2 model.weights=synthetic": r"resnet50v2 has no built-in weights; use model=mobilenetv2",
            "optimizer=lbfgs augment=light augment.mode=fresh": r"set augment.mode=views",
            "model.dropout=0.1": r"needs a deterministic loss: set model.dropout=0",
            "repeats=2": r"the same head for every seed: set repeats=1",
        },
        {
            "base=somewhere finetune=top": "base= adapts only the head: set finetune=none",
            "data.mix=0.5": "base= fits no drawn images: set data.mix=0",
            "data.crops=0.5": "base= fits no crops: set data.crops=0",
            "repeats=3": "base= fits one head, by cross-validation: set repeats=1",
            "model.class_weights=balanced": "base= balances the classes itself: set model.class_weights=none",
            "augment=light augment.views=2": "each image mirrored and turned: set augment=none",
            "report.learning_curve=true": "a learning curve trains new ones: set report.learning_curve=false",
        },
        {"data=folder": r"data.path is missing: add data.path="},
        {"data=folder data.path='x\udcff'": "not valid UTF-8"},
        {"data=folder data.path='~nobody-of-that-name/x'": "no such user has a home folder"},
        {"name=${nothing}": "cannot be resolved.*nothing"},
    ],
)
def test_faults_say_what_to_do_and_are_reported_at_once(faults: dict[str, str]) -> None:
    with pytest.raises(config.ConfigError) as caught:
        composed("config", *" ".join(faults).split())
    lines = str(caught.value).splitlines()
    assert [message for message in faults.values() if not any(re.search(message, line) for line in lines)] == []


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [12, pytest.param(1000, marks=pytest.mark.slow)])
def test_generated_configurations_are_refused_with_a_message_or_work(count: int) -> None:
    outcomes = []

    @settings(
        max_examples=count,
        derandomize=fuzzing.SEED == 0,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzzing.overrides())
    def run(typed: list[str]) -> None:
        outcomes.append(outcome(typed))

    with composing():
        run()
    assert len(outcomes) >= count
    assert len(set(outcomes)) == 3 or count < 100


def outcome(typed: list[str]) -> str:
    """Return how a command line of train.py ends, up to the training itself."""
    try:
        completed = [entry for entry in commandline.parse(typed, CONF).completed if entry != "-m"]
        untyped = compose("config", completed)
    except (CompactHydraException, ValueError):  # shown to the user as they are
        return "refused by Hydra"
    try:
        loaded = app_settings.load(untyped)
    except Exception as error:
        assert errors.is_user_error(error), f"{typed}: {type(error).__name__} would be shown with a traceback"
        assert str(error).strip()
        return "refused"
    try:
        use(loaded, typed)
    except Exception as error:
        assert errors.is_user_error(error), f"{typed}: {type(error).__name__}: {error}"
    return "accepted"


def use(loaded: config.Config, typed: list[str]) -> None:
    """Build what accepted settings configure; an error that is not the user's is a hole in the checks."""
    config.save(loaded, Path("config.yaml"))
    assert config.identity(config.read(Path("config.yaml"))) == config.identity(loaded) or "://" in str(typed)
    schedule = config.arguments(loaded.schedule, "patience", "keep")
    rate = optimizers.schedule(**schedule, learning_rate=loaded.learning_rate, steps=7)
    if loaded.optimizer.name != "lbfgs":
        built = optimizers.build(**config.arguments(loaded.optimizer), learning_rate=rate)
        assert np.isfinite(float(built.learning_rate))
    variations = config.arguments(loaded.augment, "mode", "views", "seed")
    view = augmentation.view(np.zeros((9, 8, 3), np.uint8), seed=(loaded.augment.seed, 1), **variations)
    assert view.shape == (9, 8, 3)
    np.random.default_rng([loaded.seed, 1])
    if loaded.data.source == "folder":
        prepare.list_images(loaded.data)


# --- identity and saved form ------------------------------------------------------------------------------------------


def changed(settings: Any, key: str, value: object) -> Any:
    name, _, rest = key.partition(".")
    return dataclasses.replace(settings, **{name: changed(getattr(settings, name), rest, value) if rest else value})


def test_identity_changes_exactly_with_what_changes_numbers() -> None:
    base = composed("config")
    same = ["name=x", "tags.a=b", "tracking=none", "report.level=light", "tracking.experiment=y", "runtime.threads=1"]
    same += ["runtime.compute=ray", "runtime.ray.workers=3"]
    assert config.identity(composed("config", "seed=0", *same)) == config.identity(base)
    values = {
        "seed": 1, "batch_size": 65, "image_size": 161, "epochs": 9, "learning_rate": 0.002, "model.dropout": 0.1,
        "data.limit": 9, "repeats": 3, "split.group_by": "none", "decision.threshold": 0.4,
        "decision.calibration": "none",
    }  # fmt: skip
    different = [changed(base, key, value) for key, value in values.items()]
    groups = composed("config", "optimizer=sgd", "schedule=cosine", "augment=light", "finetune=top", "decision=f1")
    for name in ("optimizer", "schedule", "augment", "finetune", "decision"):
        different.append(dataclasses.replace(base, **{name: getattr(groups, name)}))
    assert len({config.identity(settings) for settings in (base, *different)}) == 17


@pytest.mark.parametrize(
    ("overrides", "file", "uri", "experiment"),
    [
        ([], None, None, "mine"),  # None: the store reads MLFLOW_TRACKING_URI
        ([], "http://file", None, "mine"),
        (["tracking.uri=http://line", "++tracking.experiment=line"], "http://file", "http://line", "line"),
        (["tracking.uri=null"], "http://file", "sqlite:///{here}/mlflow.db", "mine"),
    ],
)
def test_the_command_line_wins_over_the_environment_and_that_over_files(
    overrides: list[str], file: str | None, uri: str | None, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with composing():
        untyped = compose("config", [*([] if file is None else [f"tracking.uri={file}"]), *overrides])

    def load() -> Any:
        return app_settings.load(copy.deepcopy(untyped), overrides).tracking

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert load().experiment == ("line" if len(overrides) == 2 else "hairline")
    assert load().uri == file or overrides
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert load().uri == (uri and uri.format(here=Path.cwd().as_posix()))
    assert load().experiment == experiment


@pytest.mark.parametrize(
    ("saved", "uri"), [("http://begun", "http://begun"), ("http://me:secret@begun", "http://environment")]
)
def test_a_resumed_run_stays_in_its_store(
    saved: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.save(composed("config", f"tracking.uri={saved}"), tmp_path / "config.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")  # names the store where its password was not saved
    resume = f"resume={tmp_path}"
    resumed = config.resumed(composed("config", resume), [])
    assert tracking.tracking_uri(resumed.tracking.uri) == uri
    assert dataclasses.replace(resumed, resume=None) == config.read(
        tmp_path / "config.yaml"
    )  # a finished run has nothing to do
    typed = ["tracking.uri=http://other"]
    assert config.resumed(composed("config", resume, *typed), typed).tracking.uri == "http://other"


def test_resume_compares_only_what_was_overridden(tmp_path: Path) -> None:
    saved = composed("config", "seed=3", "optimizer=sgd")
    config.save(saved, tmp_path / "config.yaml")
    again = [f"resume={tmp_path}", "seed=3", "name=other", "optimizer=sgd", "tags={a.b: bridge}"]
    assert config.resumed(composed("config", again[0]), again[:1]) == dataclasses.replace(saved, resume=str(tmp_path))
    resumed = config.resumed(composed("config", *again), again)
    assert resumed == dataclasses.replace(saved, resume=str(tmp_path), name="other", tags={"a.b": "bridge"})
    assert config.identity(resumed) == config.identity(saved)
    wrong = [f"resume={tmp_path}", "seed=4", "epochs=2", "optimizer=adam"]
    message = r"(?s)epochs: the run has 10.*optimizer.name.*seed: the run has 3, .* 4"
    with pytest.raises(config.ConfigError, match=message):
        config.resumed(composed("config", *wrong), wrong)
    with pytest.raises(config.ConfigError, match=r"not a configuration of this version"):
        config.resumed(composed("config", "resume=nowhere"), ["resume=nowhere"])
