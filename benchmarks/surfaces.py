"""Heat maps of photos of other surfaces against masks of their cracks: AUROC of tiles, several sizes: one JSON line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import numpy as np
import pandas as pd
from PIL import Image


def main() -> None:
    """Measure and print."""
    line = measure.parser(__doc__)
    line.add_argument("--run", required=True, help="run directory of a trained model")
    line.add_argument("--tiles", type=int, nargs="+", default=[96, 128, 180], help="sides of tiles, in pixels")
    line.add_argument("--crack", type=int, default=255, help="value of cracks in the masks")
    settings = line.parse_args()
    with measure.workplace():
        pairs = paired(settings.images)
        found = {str(side): compare(settings.run, pairs, side, settings.crack) for side in settings.tiles}
        measure.report({"photos": len(pairs), "tiles": found, **measure.machine()})


def paired(folder: Path) -> list[tuple[Path, Path]]:
    """Give the photos of `images` with the masks of the same name in `masks`."""
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    return [(path, masks[path.stem]) for path in sorted((folder / "images").iterdir()) if path.stem in masks]


def compare(run: str, pairs: list[tuple[Path, Path]], side: int, crack: int) -> dict[str, Any]:
    """Score tiles; one counts as cracked where a crack could cross half of it, as sound where there is none at all."""
    from hairline.evaluation import metrics
    from hairline.inspection.inspector import Inspector

    inspector = Inspector(run, size_px=side)
    parts = []
    for photo, mask in pairs:
        found = inspector.inspect(photo)
        with Image.open(mask) as image:
            marked = np.asarray(image.convert("L")) == crack
        table = found.table
        table["marked"] = [int(marked[y : y + h, x : x + w].sum()) for x, y, w, h in table.iloc[:, 1:5].to_numpy()]
        parts.append(table[(table["marked"] == 0) | (table["marked"] >= side / 2)])
    clear = pd.concat(parts)
    truth = (clear["marked"] > 0).to_numpy()
    chosen = (clear["predicted"] == inspector.positive).to_numpy()
    scores = clear[f"prob_{inspector.positive}"].to_numpy()
    return {
        "cracked": int(truth.sum()),
        "sound": int((~truth).sum()),
        "auroc": metrics.auroc(truth, scores),
        "recall_at_threshold": float(chosen[truth].mean()),
        "false_alarms_at_threshold": float(chosen[~truth].mean()),
    }


if __name__ == "__main__":
    main()
