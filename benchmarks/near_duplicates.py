"""HAM10000: are photographs of one lesion recovered as near-duplicates? Prints a table.

    python benchmarks/near_duplicates.py [--data shared/data] [--run RUN] [--out near_duplicates.json]

10,015 photographs of 7,470 lesions, 3,207 pairs of which show one lesion: nearer, turned or differently lit,
seldom copies. Methods: the picture comparison of `ddeval audit` (perceptual hash, then structure); the
embedding comparison on thumbnails of 12 x 12 colours, also with each photograph in its eight turns and
mirrorings; and with `--run` on the embeddings of that run. Precision and recall over pairs; `lesions` is the
share of lesions with several photographs of which at least one pair was found.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ddeval.audit import near_duplicates
from ddeval.audit.pictures import SAME_PICTURE, fingerprints, same_pictures

SIDE = 12
PRECISIONS = (0.95, 0.8, 0.5)
Array = np.ndarray[Any, Any]


def thumbnails(paths: list[Path]) -> Array:
    """(N, 12, 12, 3) centre squares, each channel about its mean over all photographs."""
    small = []
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
            edge = min(width, height)
            left, top = (width - edge) // 2, (height - edge) // 2
            square = image.convert("RGB").crop((left, top, left + edge, top + edge))
            small.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32))
    pixels = np.stack(small)
    return pixels - pixels.mean(axis=(0, 1, 2))


def ways_of(pixels: Array) -> list[Array]:
    """The eight turns and mirrorings of each square."""
    turned = [np.rot90(pixels, k, axes=(1, 2)) for k in range(4)]
    return turned + [np.flip(one, axis=2) for one in turned]


def turned_pairs(pixels: Array, *, threshold: float) -> pd.DataFrame:
    """Pairs alike in one of the eight ways: every photograph upright against every way of the others."""
    n = len(pixels)
    upright = pixels.reshape(n, -1)
    found = []
    for way in ways_of(pixels):
        both = near_duplicates(np.concatenate([upright, way.reshape(n, -1)]), threshold=threshold)
        across = both[(both["first"] < n) & (both["second"] >= n)].assign(second=both["second"] - n)
        found.append(across[across["first"] < across["second"]])
        mirrored = across[across["first"] > across["second"]]
        found.append(mirrored.rename(columns={"first": "second", "second": "first"}))
    pairs = pd.concat(found).sort_values("similarity", ascending=False, kind="stable")
    return pairs.drop_duplicates(["first", "second"])


def figures(name: str, pairs: pd.DataFrame, lesion: Array, *, at: float | None = None) -> dict[str, Any]:
    """Precision and recall of the pairs at or above a similarity."""
    held = pairs if at is None else pairs[pairs["similarity"] >= at]
    is_same = lesion[held["first"]] == lesion[held["second"]]
    n_images = np.bincount(lesion)
    found = np.unique(lesion[held["first"].to_numpy()[is_same]])
    return {
        "method": name,
        "threshold": float(held["similarity"].min()) if len(held) else float("nan"),
        "pairs": len(held),
        "precision": float(is_same.mean()) if len(held) else float("nan"),
        "recall": float(is_same.sum() / (n_images * (n_images - 1) // 2).sum()),
        "lesions": len(found) / int((n_images > 1).sum()),
    }


def ladder(name: str, pairs: pd.DataFrame, lesion: Array) -> list[dict[str, Any]]:
    """The lowest threshold at which each precision still holds, chosen with the truth in hand."""
    pairs = pairs.sort_values("similarity", ascending=False, kind="stable")
    is_same = lesion[pairs["first"]] == lesion[pairs["second"]]
    precision = np.cumsum(is_same) / np.arange(1, len(pairs) + 1)
    rows = []
    for wanted in PRECISIONS:
        reached = np.flatnonzero(precision >= wanted)
        if len(reached):
            at = float(pairs["similarity"].iloc[reached[-1]])
            rows.append(figures(f"{name}, precision {wanted:.2f}", pairs, lesion, at=at))
    return rows


def run_pairs(run: Path, ids: pd.Series, *, threshold: float) -> pd.DataFrame:
    """Pairs by the embeddings of a run that holds all images."""
    frame = pd.read_parquet(run / "predictions.parquet", columns=["image_id"])
    rows = pd.Index(frame["image_id"]).get_indexer(pd.Index(ids))
    return near_duplicates(np.load(run / "embeddings.npy")[rows], threshold=threshold)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--run", type=Path, default=None, help="run on all images, with embeddings.npy")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    folder = args.data / "ham10000"
    table = pd.read_csv(folder / "metadata.csv").sort_values("image_id", ignore_index=True)
    lesion = pd.factorize(table["lesion_id"])[0]
    paths = [folder / "images" / f"{name}.jpg" for name in table["image_id"]]
    pictures = same_pictures(fingerprints(list(paths)), threshold=0.6)
    found = [figures(f"pictures, as shipped ({SAME_PICTURE})", pictures, lesion, at=SAME_PICTURE)]
    found += ladder("pictures", pictures, lesion)
    pixels = thumbnails(paths)
    found += ladder("thumbnails", near_duplicates(pixels.reshape(len(pixels), -1), threshold=0.97), lesion)
    found += ladder("thumbnails in eight ways", turned_pairs(pixels, threshold=0.97), lesion)
    if args.run:
        pairs = run_pairs(args.run, table["image_id"], threshold=0.9)
        found += ladder("embeddings of the run", pairs, lesion)
    print(pd.DataFrame(found).to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
