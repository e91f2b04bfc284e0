"""The files beside an exported model: `bundle.json`, `README.md` with the code that runs it, and an example image."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from hairline.data import synthetic
from hairline.model.saved import BUNDLE, Bundle
from hairline.shipping import formats
from hairline.shipping.formats import FORMATS
from hairline.system import files

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
        'model.run(["probabilities"], {{"images": pixels[None]}})[0][0]',
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

# Decodes as hairline.data.images does, with Pillow and NumPy only; a test compares the two.
_CODE = """\
import json, sys
import numpy as np
{imports}
from PIL import Image, ImageOps
bundle, model = json.load(open("bundle.json", encoding="utf-8")), {opens}
for path in sys.argv[1:] or ["{example}"]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey
        assert np.max(image) >= 2**14, f"{{path}}: the values have fewer than 16 bits"
        image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257.0), 0, 255).astype(np.uint8))
    if "transparency" in image.info or "A" in image.getbands():  # on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("RGB").resize(bundle["input_size"], Image.Resampling.BILINEAR))
    probabilities = dict(zip(bundle["class_names"], {calls}.tolist()))
    print(json.dumps({{"path": path, "label": {label}, "probabilities": probabilities}}))
"""


def code(name: str, bundle: Bundle) -> str:
    """Return the Python code that loads and runs an export with its runtime, NumPy and Pillow.

    Args:
        name: Key of `formats.FORMATS`.
        bundle: Bundle of the model.
    """
    imports, opens, calls = (part.format(file=FORMATS[name].file) for part in _CALLS[name])
    return _CODE.format(imports=imports, opens=opens, calls=calls, label=_label(bundle), example=EXAMPLE)


def _label(bundle: Bundle) -> str:
    """Return the decision as a Python expression on `probabilities`, by class name."""
    if bundle.positive_class is None or bundle.threshold is None:
        return "max(probabilities, key=probabilities.get)"
    other = next(name for name in bundle.class_names if name != bundle.positive_class)
    # In Python, unlike in JSON, the escape of a character beyond 16 bits would be two characters.
    positive, negative = (json.dumps(name, ensure_ascii=False) for name in (bundle.positive_class, other))
    decision = f"{positive} if probabilities[{positive}] >= {bundle.threshold!r} else {negative}"
    if bundle.decision.abstain is None:
        return decision
    low, high = bundle.decision.abstain
    return f'"cannot tell" if {low!r} <= probabilities[{positive}] < {high!r} else {decision}'


def write_bundle(
    folder: Path, name: str, bundle: Bundle, path: Path, commit: str | None, measurements: dict[str, Any]
) -> None:
    """Save `bundle.json` of an export: the model's bundle, and what concerns the export only.

    Args:
        folder: Folder of the export.
        name: Key of `formats.FORMATS`.
        bundle: Bundle of the model.
        path: The exported file or folder.
        commit: Commit of the code that trained the model, if known.
        measurements: Measurements returned by `export.gate`.
    """
    size = bundle.image_size
    licence = bundle.backbone.get("licence") or "none known"
    content = {
        **{
            key: value
            for key, value in asdict(bundle).items()
            if key not in ("format", "model_sha256", "converted_sha256")
        },
        "export_format": name,
        "file": path.name,
        "sha256": {file.relative_to(folder).as_posix(): files.sha256(file) for file in formats.files(path)},
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
        "licence": f"hairline: Apache-2.0; backbone weights: {licence}; training images: their owner's terms",
        "parity": measurements,
    }
    (folder / BUNDLE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_example(folder: Path) -> Path:
    """Draw the example image of the README."""
    patch, _ = synthetic.draw(0, 7, label=synthetic.CLASS_NAMES[0])
    Image.fromarray(patch).save(folder / EXAMPLE)
    return folder / EXAMPLE


def write_readme(
    folder: Path, name: str, bundle: Bundle, measurements: dict[str, Any], example: np.ndarray, machine: str
) -> None:
    """Save `README.md`.

    Args:
        folder: Folder of the export.
        name: Key of `formats.FORMATS`.
        bundle: Bundle of the model.
        measurements: Measurements returned by `export.gate`.
        example: Probabilities that the code prints for the example image, float64 [classes].
        machine: Machine of the measurements.
    """
    printed = {
        "path": EXAMPLE,
        "label": bundle.decide(example[None])[0],
        "probabilities": dict(zip(bundle.class_names, example.tolist(), strict=True)),
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hairline", "shipping"),
        autoescape=False,  # Markdown
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("readme.md.j2").render(
        format=name,
        title=FORMATS[name].title,
        classes=" and ".join([", ".join(bundle.class_names[:-1]), bundle.class_names[-1]]),
        count=len(bundle.class_names),
        size=bundle.image_size,
        decision=bundle.describe_decision(),
        # Versions that the gate ran.
        packages=" ".join(f"'{package}=={metadata.version(package)}'" for package in FORMATS[name].runtime),
        example=EXAMPLE,
        code=code(name, bundle),
        printed=json.dumps(printed),
        machine=machine,
        parity=measurements,
        bundle=BUNDLE,
    )
    (folder / README).write_text(text, encoding="utf-8")
