"""What lies beside an exported model: `bundle.json`, `README.md` with the lines that run it, and an image to try."""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hairline.data import synthetic
from hairline.model.saved import BUNDLE, Bundle
from hairline.shipping.formats import FORMATS

README, EXAMPLE = "README.md", "example.png"

# How each runtime is imported, opened and called.
_LITERT = (
    "from ai_edge_litert.interpreter import Interpreter",
    'Interpreter("{file}").get_signature_runner()',
    'model(images=pixels[None])["probabilities"][0]',
)
_CALLS: dict[str, tuple[str, str, str]] = {
    "litert": _LITERT,
    "litert_int8": _LITERT,
    "onnx": (
        "import onnxruntime",
        'onnxruntime.InferenceSession("{file}")',
        'model.run(["probabilities"], {"images": pixels[None]})[0][0]',
    ),
    "saved_model": (
        "import tensorflow as tf",
        'tf.saved_model.load("{file}")',
        'model.signatures["serving_default"](images=tf.constant(pixels[None]))["probabilities"][0].numpy()',
    ),
    "keras": (
        "import keras",
        'keras.models.load_model("{file}", compile=False)',
        "model.predict_on_batch(pixels[None])[0]",
    ),
}

# The decoding of hairline.data.images in Pillow's own words; tests/test_shipping.py compares the two.
DECODE = """\
image = ImageOps.exif_transpose(Image.open(path))
if image.mode.startswith("I"):  # 16-bit grey
    image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257.0), 0, 255).astype(np.uint8))
pixels = np.asarray(image.convert("RGB").resize(bundle["input_size"], Image.Resampling.BILINEAR))
"""

_CODE = """\
import json, sys
import numpy as np
{imported}
from PIL import Image, ImageOps
bundle, model = json.load(open("bundle.json", encoding="utf-8")), {opened}
for path in sys.argv[1:] or ["{example}"]:
{decode}\
    found = dict(zip(bundle["class_names"], {called}.tolist()))
    print(json.dumps({{"path": path, "label": {label}, "probabilities": found}}))
"""

_TEXT = """\
# {classes} ({title})

It tells {classes} apart on images of surfaces. It takes RGB pixels, `uint8 [batch, {size}, {size}, 3]`, named
`images`, and gives `probabilities`, `float32 [batch, {count}]`, in the order of `class_names`. Scaling and
calibration are inside: feed it pixels from 0 to 255 as they are. {decision}

## Run it

    pip install {packages} numpy pillow

In this folder, with the paths of images after it; without any it takes `{example}`:

```python
{code}```

For `{example}`, a drawn patch, it prints

```json
{printed}
```

How a file becomes pixels decides as much as the model does. These lines turn an image right side up by its EXIF
orientation, make it RGB, scale 16-bit grey, and squeeze it to {size} x {size} pixels with Pillow's bilinear filter,
which averages over all pixels when it makes an image smaller. An `F` (floating-point) image has no agreed range: refuse
it. In another language, use a resize that averages likewise, and compare its probabilities with these.
{more}
## How well it runs

Measured on {images:,} validation images, with {title} on {machine}:

| | |
|---|---|
| largest difference in probability from the Keras model, on the same pixels | {difference:.1e} |
| equal labels, from the files' bytes on | {equal_labels:.4f} |
| accuracy, and the Keras model's | {accuracy:.4f}, {keras_accuracy:.4f} |
| size | {megabytes:.1f} MB |
| milliseconds an image, one by one, and in batches of 16 | {milliseconds_batch_1:.2f}, {milliseconds_batch_16:.2f} |

`{bundle}` holds the same for programs, and where the model comes from.
"""

_SERVING = """
TensorFlow Serving wants a folder with versions; mount this one as the first:

    docker run -p 8501:8501 -v "$PWD/saved_model:/models/hairline/1" -e MODEL_NAME=hairline tensorflow/serving
"""


def code(name: str, bundle: Bundle) -> str:
    """Write the lines of Python that load and run an export with its runtime, NumPy and Pillow.

    Args:
        name: A key of `formats.FORMATS`.
        bundle: Of the model.
    """
    imported, opened, called = _CALLS[name]
    return _CODE.format(
        imported=imported,
        opened=opened.format(file=FORMATS[name].file),
        called=called,
        decode=textwrap.indent(DECODE, "    "),
        label=_label(bundle),
        example=EXAMPLE,
    )


def _label(bundle: Bundle) -> str:
    """Write the decision on `found`, the probabilities by class, as an expression."""
    if bundle.positive_class is None or bundle.threshold is None:
        return "max(found, key=found.get)"
    other = next(name for name in bundle.class_names if name != bundle.positive_class)
    first, second = json.dumps(bundle.positive_class), json.dumps(other)
    decision = f"{first} if found[{first}] >= {bundle.threshold!r} else {second}"
    if bundle.decision.abstain is None:
        return decision
    low, high = bundle.decision.abstain
    return f'"cannot tell" if {low!r} <= found[{first}] < {high!r} else {decision}'


def describe(name: str, bundle: Bundle, path: Path, measured: dict[str, Any], commit: str | None) -> dict[str, Any]:
    """Give what `bundle.json` of an export holds: the saved model's description, and what is the export's own.

    Args:
        name: A key of `formats.FORMATS`.
        bundle: Of the model.
        path: The exported file or folder.
        measured: By the gate.
        commit: Of the code that trained the model, where it is known.
    """
    told = asdict(bundle)
    size = bundle.image_size
    weights = bundle.backbone.get("licence") or "none known"
    return {
        **{key: value for key, value in told.items() if key not in ("format", "model_sha256")},
        "export_format": name,
        "file": path.name,
        "sha256": {
            str(file.relative_to(path.parent).as_posix()): _sha256(file)
            for file in ([path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file()))
        },
        "runtime": list(FORMATS[name].runtime),
        "input_name": "images",
        "input_size": [size, size],
        "input_dtype": "uint8",
        "input_layout": "batch, height, width, RGB",
        "output_name": "probabilities",
        "output_dtype": "float32",
        "resize": {"width": size, "height": size, "filter": "Pillow bilinear, averaging when reducing"},
        "source_model_sha256": bundle.model_sha256,
        "commit": commit,
        "licence": f"hairline: Apache-2.0; backbone weights: {weights}; training images: their owner's terms",
        "parity": measured,
    }


def write_bundle(
    folder: Path, name: str, bundle: Bundle, path: Path, measured: dict[str, Any], commit: str | None
) -> None:
    """Write `bundle.json`; see `describe`."""
    told = describe(name, bundle, path, measured, commit)
    (folder / BUNDLE).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_example(folder: Path) -> Path:
    """Draw the image on which a user sees that the lines work."""
    patch, _ = synthetic.draw(0, 7, label=synthetic.CLASS_NAMES[0])
    Image.fromarray(patch).save(folder / EXAMPLE)
    return folder / EXAMPLE


def write_readme(
    folder: Path, name: str, bundle: Bundle, measured: dict[str, Any], example: np.ndarray, machine: str
) -> None:
    """Write `README.md`.

    Args:
        folder: The export.
        name: A key of `formats.FORMATS`.
        bundle: Of the model.
        measured: By the gate.
        example: What the lines print for the example: probabilities, float64 [classes].
        machine: What the figures were measured on.
    """
    row = {
        "path": EXAMPLE,
        "label": bundle.decide(example[None])[0],
        "probabilities": dict(zip(bundle.class_names, example.tolist(), strict=True)),
    }
    entry = FORMATS[name]
    text = _TEXT.format(
        title=entry.title,
        classes=" and ".join([", ".join(bundle.class_names[:-1]), bundle.class_names[-1]]),
        count=len(bundle.class_names),
        size=bundle.image_size,
        decision=f"The answer: {bundle.describe_decision()}.",
        packages=" ".join(f"'{package}'" for package in _pinned(entry.runtime)),
        example=EXAMPLE,
        code=code(name, bundle),
        printed=json.dumps(row),
        more=_SERVING if name == "saved_model" else "",
        machine=machine,
        bundle=BUNDLE,
        **measured,
    )
    (folder / README).write_text(text, encoding="utf-8")


def _pinned(packages: tuple[str, ...]) -> list[str]:
    """Name packages with the versions that the gate ran."""
    from importlib import metadata

    return [f"{name}=={metadata.version(name)}" for name in packages]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
