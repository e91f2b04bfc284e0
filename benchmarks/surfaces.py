"""Heat maps of photos of other surfaces against masks of their cracks: AUROC of tiles, several sizes: one JSON line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import pandas as pd
import tiles


def main() -> None:
    """Measure and print."""
    line = measure.parser(__doc__)
    line.add_argument("--run", required=True, help="run directory of a trained model")
    line.add_argument("--tiles", type=int, nargs="+", default=[96, 128, 180], help="sides of tiles, in pixels")
    settings = line.parse_args()
    with measure.workplace():
        pairs = tiles.paired(settings.images / "images", settings.images / "masks")
        found = {str(side): compare(settings.run, pairs, side) for side in settings.tiles}
        measure.report({"photos": len(pairs), "tiles": found, **measure.machine()})


def compare(run: str, pairs: list[tuple[Path, Path]], side: int) -> dict[str, Any]:
    """Score tiles; one counts as cracked where a crack could cross half of it, as sound where there is none at all."""
    from hairline.evaluation import metrics
    from hairline.inspection.inspector import Inspector

    inspector = Inspector(run, size_px=side)
    parts = []
    for photo, mask in pairs:
        found = inspector.inspect(photo)
        boxes = found.table[["x", "y", "width", "height"]].to_numpy()
        cracked, clear = tiles.cracked(tiles.cracks(mask), boxes, side // 2)
        parts.append(found.table.assign(cracked=cracked)[clear])
    table = pd.concat(parts)
    truth = table["cracked"].to_numpy()
    chosen = (table["predicted"] == inspector.positive).to_numpy()
    scores = table[f"prob_{inspector.positive}"].to_numpy()
    return {
        "cracked": int(truth.sum()),
        "sound": int((~truth).sum()),
        "auroc": metrics.auroc(truth, scores),
        "recall_at_threshold": float(chosen[truth].mean()),
        "false_alarms_at_threshold": float(chosen[~truth].mean()),
    }


if __name__ == "__main__":
    main()
