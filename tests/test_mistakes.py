"""Commands that cannot work are answered with a sentence and the corrected command, which works."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hairline.app import mistakes
from hairline.app.mistakes import Command
from tests.conftest import CONF


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    for name in ("my photos", "photos", "no crack, dry", "a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "list.csv").write_text("path,label\n")


def find(typed: str, script: str = "train") -> str | None:
    return mistakes.find(Command(shlex.split(typed), CONF, script))


@pytest.mark.parametrize(
    ("script", "typed", "fault", "corrected"),
    [
        # Spaces and commas in values.
        ("train", "data=folder data.path=my photos", "in quotes", "data=folder 'data.path=my photos'"),
        ("train", "data=folder data.path=no crack, dry seed=1", "in quotes",
         "data=folder 'data.path=no crack, dry' seed=1"),
        ("train", "name=first try -m seed=1,2", "in quotes", "'name=first try' -m seed=1,2"),
        ("train", "data=folder data.class_map={a: b, c: d}", "in quotes", "data=folder 'data.class_map={a: b, c: d}'"),
        ("predict", "run=a input=my photos output=out", "in quotes", "run=a 'input=my photos' output=out"),
        ("evaluate", "-m run=a data=folder 'data.path=no crack, dry'", "quoted twice",
         "-m run=a data=folder \"data.path='no crack, dry'\""),
        # Paths in the wrong place.
        ("train", "data=photos", "data.path= the place", "data=folder data.path=photos"),
        ("train", "data=./elsewhere/set", "data.path= the place", "data=folder data.path=./elsewhere/set"),
        ("train", "data=list.csv", "data.path= the place", "data=manifest data.path=list.csv"),
        ("train", "data=/x/y seed=1", "data.path= the place", "data=folder data.path=/x/y seed=1"),
        ("train", "data.path=photos", "kind of source is missing", "data=folder data.path=photos"),
        ("evaluate", "run=a data.path=list.csv", "kind of source is missing", "run=a data=manifest data.path=list.csv"),
        ("train", "photos", "expected key=value", "data=folder data.path=photos"),
        ("predict", "run=a 'my photos'", "expected key=value", "run=a 'input=my photos'"),
        ("compare", "a b", "expected key=value", "'runs=[a,b]'"),
        ("compare", "runs=a b", "in brackets", "'runs=[a,b]'"),
        ("compare", "runs=a,b", "in brackets", "'runs=[a,b]'"),
        ("register", "a/", "expected key=value", "run=a/"),
        # Flags of other tools.
        ("train", "--model xception", "without dashes", "model=xception"),
        ("train", "--model=xception --epochs 5", "without dashes", "model=xception epochs=5"),
        ("train", "--batch-size 32", "without dashes", "batch_size=32"),
        ("train", "--lr 0.1 --data photos", "without dashes", "learning_rate=0.1 data=folder data.path=photos"),
        ("train", "--no-probe", "without dashes", "probe=false"),
        ("train", "--report.learning-curve", "without dashes", "report.learning_curve=true"),
        ("train", "~schedule schedule.name=cosine", "schedule can be replaced", "schedule.name=cosine"),
        ("predict", "--run a --input photos", "without dashes", "run=a input=photos"),
        # Names of other tools.
        ("train", "lr=0.1", "Did you mean 'learning_rate'", "learning_rate=0.1"),
        ("train", "bs=8 num_epochs=3", "Did you mean 'batch_size'", "batch_size=8 epochs=3"),
        ("train", "dropout=0.2", "Did you mean 'model.dropout'", "model.dropout=0.2"),
        ("train", "learning_rat=0.1", "Did you mean 'learning_rate'", "learning_rate=0.1"),
        ("train", "backbone=resnet50v2", "Did you mean 'model'", "model=resnet50v2"),
        ("train", "data_dir=photos", "Did you mean 'data.path'", "data=folder data.path=photos"),
        ("predict", "run=a photos=photos", "Did you mean 'input'", "run=a input=photos"),
        ("predict", "model=a input=photos", "Did you mean 'run'", "run=a input=photos"),
        # Spaces around the equals sign.
        ("train", "batch_size = 512", "without spaces around", "batch_size=512"),
        ("train", "seed=1 batch_size= 512 epochs=2", "without spaces around", "seed=1 batch_size=512 epochs=2"),
        ("train", "batch_size =512 epochs=2", "without spaces around", "batch_size=512 epochs=2"),
        ("predict", "run = a input = photos", "without spaces around", "run=a input=photos"),
        # No choice.
        ("train", "search=null name=a,b", "null is no choice; without a choice, leave search= out", "name=a,b"),
        ("train", "seed=1 +model=null", "leave model= out", "seed=1"),
        # Several values.
        ("train", "optimizer=adam,sgd", "need -m", "-m optimizer=adam,sgd"),
        ("train", "seed=1,2 batch_size=8", "need -m", "-m seed=1,2 batch_size=8"),
        ("train", "learning_rate=1e-2,1e-3", "need -m", "-m learning_rate=1e-2,1e-3"),
        ("train", "seed='range(1,4)'", "need -m", "-m 'seed=range(1,4)'"),
        ("export", "run=a format=litert,onnx", "need -m", "-m run=a format=litert,onnx"),
        ("evaluate", "run=a data=folder data.path=photos,b", "need -m", "-m run=a data=folder data.path=photos,b"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_corrected(script: str, typed: str, fault: str, corrected: str) -> None:
    message = find(typed, script)
    assert message is not None
    assert fault in message
    *_, last = message.splitlines()
    assert last == f"  python {script}.py {corrected}"
    assert find(corrected, script) is None


def test_a_choice_of_another_script_is_no_setting_here() -> None:
    message = find("run=a input=photos tracking=none", "predict")
    assert message == "tracking=none: expected one of its settings, such as tracking.uri; tracking has no choices here"
    assert find("tracking=none") is None


def test_a_decimal_comma_is_not_taken_for_two_values() -> None:
    message = find("learning_rate=0,001")
    assert message is not None
    assert "python train.py learning_rate=0.001\n" in message
    assert message.endswith("python train.py -m learning_rate=0,001")


@pytest.mark.parametrize(
    ("script", "typed"),
    [
        ("train", "--help"),
        ("train", "--hel"),
        ("train", "--cfg job optimizer=sgd"),
        ("train", "-c job --package optimizer"),
        ("train", "--info all"),
        ("train", "-sc install=bash"),
        ("train", "--shell-completion query=bash"),
        ("train", "--config-dir 'my conf' experiment=own lr=3"),
        ("train", "--config-name config seed=1"),
        ("train", "-m seed=1,2 optimizer=adam,sgd hydra/launcher=basic"),
        ("train", "-m 'seed=range(1,4)'"),
        ("train", "search=head hydra.sweeper.n_trials=3"),
        ("train", "resume=a data.path=photos"),
        ("train", "experiment=recipe data.path=photos"),
        ("train", "~tags +tags.site=x tags.a.b=c 'model.taps=[a:max,b:max]' decision.abstain=[0.3,0.7]"),
        ("train", "data=folder 'data.path=no crack, dry' name=a,b"),
        ("train", "'data.class_map={a: b, c: d}'"),
        ("compare", "runs=[a,b] metric=val_loss"),
        ("compare", "runs=[]"),
        ("export", "-m run=a format=litert,onnx data.path=photos"),
        ("predict", "run=a input=photos '' hydra.run.dir=x"),
    ],
)
def test_commands_that_work_pass(script: str, typed: str) -> None:
    assert find(typed, script) is None


@pytest.mark.parametrize("typed", ["--verbose", "epochs=5 10", "gibberish", "-m experiment=recipe,null"])
def test_what_is_unclear_is_named_without_a_guess(typed: str) -> None:
    message = find(typed)
    assert message is not None
    assert "python" not in message


@pytest.mark.parametrize(
    ("script", "typed"),
    [
        ("compare", f"runs=[{','.join(f'runs/{number:03}' for number in range(700))}]"),
        ("predict", f"run=a input={'photos,' * 700}photos"),
        ("train", f"data=folder data.path={'x' * 5000} -m seed=1,2"),
    ],
)
def test_values_longer_than_any_file_name_are_taken(script: str, typed: str) -> None:
    find(typed, script)
