"""The import rules of CONTRIBUTING.md, read off the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hairline"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))

# The modules that may import a heavy library, at whatever depth.
ALLOWED = {
    "mlflow": {
        "tracking.mirror",
        "tracking.models",
        "tracking.parents",
        "tracking.runs",
        "tracking.sampling",
        "tracking.store",
        "registry",
        "serving",
    },
    "hydra": {"cli", "launching", "multirun"},
    "omegaconf": {
        "config.schema",
        "config.assessment",
        "config.inspection",
        "config.shipping",
        "config.saved",
        "cli",
        "launching",
        "multirun",
    },  # fmt: skip
    "matplotlib": {"evaluation.charts", "evaluation.figures", "evaluation.report", "evaluation.sweep_figure"},
    "requests": set(),
    "ray": {"inspection.cluster"},
}
LIGHT = {
    "atomic", "cache", "checkpoint", "cli", "faults", "interruption", "redaction", "synchronisation", "config.values",
    "config.schema", "config.checks", "config.assessment", "config.commands", "config.inspection",
    "config.saved", "config.shipping", "environment", "assessment",
    "experiment", "few_labels", "launching", "logs", "measurement", "multirun", "phases", "preparation", "pretrained",
    "progress",
    "saving", "search",
    "registry", "standings", "sweeps", "tuning",
    "tracking.delivery", "tracking.journal", "tracking.mirror", "tracking.models", "tracking.parents", "tracking.runs",
    "tracking.sampling", "tracking.store",
    "data.archives", "data.augmentation", "data.cropping", "data.decoded", "data.download",
    "data.duplicates",
    "data.images", "data.manifest", "data.sources", "data.splits", "data.mixing", "data.synthetic.__init__",
    "data.synthetic.camera", "data.synthetic.composites", "data.synthetic.cracks", "data.synthetic.geometry",
    "data.synthetic.lookalikes", "data.synthetic.patches", "data.synthetic.surfaces", "evaluation.calibration",
    "evaluation.charts", "evaluation.comparison", "evaluation.decisions", "evaluation.leaks", "evaluation.measures",
    "evaluation.thresholds", "evaluation.intervals", "evaluation.metrics", "evaluation.figures", "evaluation.report",
    "evaluation.sweep_figure", "model.backbones", "model.distance", "model.engine",
    "model.feature_store", "model.features", "model.probe", "model.bundle", "model.refit", "model.surface",
    "inference",
    "inspection.adaptation",
    "inspection.tiles", "inspection.exif", "inspection.inspector", "inspection.overlays", "inspection.examiner",
    "inspection.tables", "inspection.markup", "inspection.report", "inspection.photos", "inspection.cluster",
    "shipping.export", "shipping.formats", "shipping.instructions", "shipping.parity", "shipping.record",
    "shipping.registration", "shipping.runtimes", "shipping.samples",
}  # fmt: skip


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path, *, top_level: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_all_modules_are_walked() -> None:
    assert len(MODULES) >= 20
    assert {"compare.py", "evaluate.py", "train.py"} <= {path.name for path in SCRIPTS}
    assert {name_of(path) for path in MODULES} >= LIGHT - {"data.archives"}


@pytest.mark.parametrize("library", ALLOWED)
def test_only_named_modules_import(library: str) -> None:
    users = {
        name_of(path) for path in MODULES if any(n.split(".")[0] == library for n in imports(path, top_level=False))
    }
    assert users <= ALLOWED[library]


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) in LIGHT] + SCRIPTS, ids=lambda path: path.stem)
def test_light_modules_do_not_load_tensorflow(path: Path) -> None:
    heavy = {"tensorflow", "keras", "mlflow"}
    assert not {name.split(".")[0] for name in imports(path, top_level=True)} & heavy


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_one_way(path: Path) -> None:
    """Data knows nothing of models, models nothing of training, and nobody below it of the experiment."""
    stages = (
        "data",
        "model",
        "training solving evaluation",
        "inference",
        "serving preparation shipping inspection",
        "phases",
        "measurement standings few_labels pretrained saving tuning",
        "experiment assessment sweeps",
        "synchronisation",
        "multirun",
        "launching",
        "cli",
    )
    order = {name: level for level, names in enumerate(stages) for name in names.split()}
    own = order.get(name_of(path).split(".")[0])
    used = {name.split(".")[1] for name in imports(path, top_level=False) if name.startswith("hairline.")}
    if own is not None:
        assert all(order.get(name, -1) <= own for name in used), used
    elif name_of(path) not in ("config.checks", "config.shipping", "__init__", "tracking.models"):
        assert not used & set(order), used


def test_no_drawers_for_odds_and_ends() -> None:
    assert not {"utils", "helpers", "common"} & {path.stem for path in MODULES}
