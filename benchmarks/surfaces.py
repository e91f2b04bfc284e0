"""AUROC of tiles of photos against crack masks, for several tile sizes: one JSON line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measure
import pandas as pd
import tiles


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__)
    parser.add_argument("--run", required=True, help="run directory of a trained model")
    parser.add_argument("--tiles", type=int, nargs="+", default=[96, 128, 180], help="sides of tiles in pixels")
    settings = parser.parse_args()
    with measure.workplace():
        pairs = tiles.pairs(settings.images / "images", settings.images / "masks")
        results = {str(side): compare(settings.run, pairs, side) for side in settings.tiles}
        measure.report({"photos": len(pairs), "tiles": results, **measure.machine()})


def compare(run: str, pairs: list[tuple[Path, Path]], side: int) -> dict[str, Any]:
    """Score tiles; a tile is cracked from half its side in crack pixels, and sound without any."""
    from sklearn.metrics import roc_auc_score

    from hairline.inspection.inspector import Inspector

    inspector = Inspector(run, size_px=side)
    parts = []
    for photo, mask in pairs:
        table = inspector.inspect(photo).table
        boxes = table[["x", "y", "width", "height"]].to_numpy()
        cracked, clear = tiles.cracked(tiles.cracks(mask), boxes, side // 2)
        parts.append(table.assign(cracked=cracked)[clear])
    table = pd.concat(parts)
    truth = table["cracked"].to_numpy()
    predicted = (table["predicted"] == inspector.positive).to_numpy()
    scores = table[f"prob_{inspector.positive}"].to_numpy()
    return {
        "cracked": int(truth.sum()),
        "sound": int((~truth).sum()),
        "auroc": roc_auc_score(truth, scores),
        "recall_at_threshold": float(predicted[truth].mean()),
        "false_alarms_at_threshold": float(predicted[~truth].mean()),
    }


if __name__ == "__main__":
    main()
