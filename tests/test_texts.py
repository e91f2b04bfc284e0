"""A text setting takes exactly what was typed, on every script, and survives saving, resuming and sweeping."""

from __future__ import annotations

import itertools
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hairline import config
from hairline.app import commandline
from hairline.config import reference
from hairline.config.commands import override
from tests.conftest import CONF
from tests.running import composed, composing

TEXTS = [
    "2024_05_12", "1_0", "1e3", "0x10", "007", "0o17", "1:30", ".5", "5.", "+5", "inf", "-inf", "nan",
    "1_000.5", "12e03", "yes", "no", "on", "Off", "true", "False", "None", "NULL", "Null", "nil", "#3",
    "a #3", "[a]", "[1,2", "{b}", "{b: c}", "a]b", "a,b", "a, b,", "é", "fissuré (1)", "裂缝", "🧱", "${x}",
    "${x", "\\${x}", "a\\\\${data.path}", "$HOME", "it's", 'say "hi"', "''quoted''", "'open",
    "C:\\photos\\2024", "back\\", "\\\\server\\share\\\\", " leading", "trailing ", "a=b", "=", "a==b",
    "<0.3mm", "50%", "%40", "%@x", "a;b", "a|b", "a&b", "!tag", "&anchor", "*alias", "- item", "key: value",
    "?", "@", "`cmd`", "~", "~/x", "f(x)", "choice a", "models:/a@b", "crack (fine)", "no crack, dry",
    "line\nbreak", "tab\there",
]  # fmt: skip


def completed(*arguments: str, script: str = "train") -> list[str]:
    return list(commandline.parse(arguments, CONF, script).completed)


def value(argument: str) -> Any:
    """Return what OmegaConf makes of the override that Hydra reads."""
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    assert not parsed.is_sweep_override()
    found = OmegaConf.to_container(OmegaConf.create({"x": parsed.value()}), resolve=True)["x"]
    return {config.commands.decoded(name): text for name, text in found.items()} if isinstance(found, dict) else found


def test_hydra_reads_what_was_typed() -> None:
    assert [value(entry) for entry in completed(*(f"name={text}" for text in TEXTS))] == TEXTS
    assert [value(entry) for entry in completed(*(f"tags.site={text}" for text in TEXTS))] == TEXTS
    one = [text for text in TEXTS if "," not in text]
    assert [value(entry) for entry in completed("-m", *(f"name={text}" for text in one))[1:]] == one
    items = [text for text in one if not set(text) & set(":[]{}'\"\\") and text == text.strip()]
    assert len(items) > 40
    lists = completed(*(f"runs=[{text},b]" for text in items), script="compare")
    assert [value(entry) for entry in lists] == [[text, "b"] for text in items]
    mappings = completed(*(f"tags={{{text}: {text}, b: c}}" for text in items))
    assert [value(entry) for entry in mappings] == [{text: text, "b": "c"} for text in items]
    names = [text for text in items if "=" not in text]
    assert [value(entry) for entry in completed(*(f"tags.{text} =x" for text in names))] == [
        {f"{text} ": "x"} for text in names
    ]


@pytest.mark.parametrize(("place", "script"), list(enumerate(config.SCRIPTS)))
def test_every_text_setting_takes_texts(place: int, script: str) -> None:
    chosen = {"data": "folder"} if script in ("config", "evaluate") else {}
    settings = reference.settings(config.SCRIPTS[script], chosen)
    keys = [entry.key for entry in settings if entry.is_text and not entry.key.endswith("resume")]
    assert len(keys) >= 3
    texts = dict(zip(keys, itertools.islice(itertools.cycle(TEXTS), 11 * place, None), strict=False))
    typed = [
        *(f"{group}={choice}" for group, choice in chosen.items()),
        *(f"{key}={text}" for key, text in texts.items()),
    ]
    if script == "config":
        typed = [*typed, "optimizer=adam", "schedule=constant"]
    with composing():
        found = compose(script, completed(*typed, script="train" if script == "config" else script))
    assert {key: OmegaConf.select(found, key) for key in keys} == texts


def test_null_means_none_only_where_it_is_allowed() -> None:
    assert value(*completed("base=null")) is None
    assert value(*completed("base='null'")) == "null"
    assert value(*completed("run=null", script="predict")) == "null"
    assert value(completed("data=folder", "data.path=null")[1]) == "null"
    assert value(completed("data=concrete_cracks", "data.path=null")[1]) is None
    assert value(*completed("tags={a: null}")) == {"a": "null"}


def test_a_text_in_quotes_may_refer_to_another_setting() -> None:
    assert completed("name='${model.backbone}'") == ["name='${model.backbone}'"]


def test_ordinary_texts_stay_as_they_are() -> None:
    typed = [
        "name=first",
        "base=outputs/2024-05-12/10-00-00",
        "model.taps=[a_1:max]",
        "tags={site: bridge}",
        "tags.x=y",
    ]
    assert completed(*typed) == typed


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("name=a,b", "name=a,b"),
        ("name=2024_05_12,1e3", "name='2024_05_12','1e3'"),
        ("name=choice(1e3,b)", "name=choice('1e3',b)"),
        ("name='a,b',c", "name='a,b',c"),
        ("model.taps=[1e3],[a:max]", "model.taps=['1e3'],[a:max]"),
        ("model.weights=glob(*)", "model.weights=glob(*)"),
        ("base=null,x", "base=null,x"),
    ],
)
def test_each_value_of_a_sweep_is_taken_as_typed(typed: str, expected: str) -> None:
    assert completed("-m", typed) == ["-m", expected]


def test_own_choices_may_have_any_name(tmp_path: Path) -> None:
    shutil.copy(CONF / "config.yaml", tmp_path)
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "2024_05_12.yaml").write_text("# @package _global_\nseed: 3\n")
    found = commandline.parse(["experiment=2024_05_12"], tmp_path).completed
    assert found == ["experiment='2024_05_12'"]
    assert commandline.parse(["hydra.run.dir=2024_05_12"], tmp_path).completed == ["hydra.run.dir='2024_05_12'"]


def test_texts_survive_saving_and_reading(tmp_path: Path) -> None:
    data = tmp_path / r"a ${x} \${y} 裂缝"
    data.mkdir()
    typed = ["data=folder", f"data.path={data}", "data.class_map={0: intact, 'no crack, dry': <0.3mm, fissuré: '${x}'}"]
    typed += ["name=1e3", "tags.mlflow.note=yes", "tags.où=2024_05_12", "model.taps=[]"]
    settings = composed("config", *completed(*typed))
    assert settings.data.class_map == {"0": "intact", "no crack, dry": "<0.3mm", "fissuré": "${x}"}
    assert settings.tags == {"mlflow.note": "yes", "où": "2024_05_12"}
    assert (settings.name, settings.data.path) == ("1e3", str(data))
    config.save(settings, tmp_path / "config.yaml")
    assert config.read(tmp_path / "config.yaml") == settings
    assert config.plain(tmp_path / "config.yaml")["data"]["path"] == str(data)


def test_printed_overrides_work_when_pasted() -> None:
    texts = completed(*shlex.split(" ".join(override("run", text) for text in TEXTS)), script="predict")
    assert [value(entry) for entry in texts] == TEXTS
    lists = completed(*shlex.split(" ".join(override("runs", [text, "b"]) for text in TEXTS)), script="compare")
    assert [value(entry) for entry in lists] == [[text, "b"] for text in TEXTS]
    mappings = completed(*shlex.split(" ".join(override("tags", {text: text, "b": "c"}) for text in TEXTS)))
    assert [value(entry) for entry in mappings] == [{text: text, "b": "c"} for text in TEXTS]
