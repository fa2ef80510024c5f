"""The dataset card of a target: made from what index, split and prepared images already know; no file is opened."""

from pathlib import Path
from typing import Any

import numpy as np

from rkd_pipeline.data.index import MASKS, PIXELS
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.results.card_content import describe
from rkd_pipeline.results.figures.card_figures import copies, histograms, montage
from rkd_pipeline.stages.datasets import FIRST_SIDE, read_index, read_verified_split
from rkd_pipeline.store.result_store import Result, Store
from rkd_pipeline.store.stage_versions import DATASET_CARD, DATASET_SOURCE, IMAGES, PREPARED_IMAGES, SPLIT

CARD, MONTAGE, HISTOGRAMS, COPIES = "card.md", "montage.png", "histograms.png", "copies.png"


def make_card(store: Store, target_name: str) -> Result:
    """``dataset_card``: ``card.md`` with its images, and the numbers as parquet."""
    wanted, described = targets_in(store).target(target_name), targets_in(store).dataset_of(target_name)
    indexed, split = store.require(IMAGES, target_name), store.require(SPLIT, target_name)
    prepared = store.require(PREPARED_IMAGES, target_name, f"{FIRST_SIDE}px")
    origin = store.require(DATASET_SOURCE, target_name).facts.get("origin", {})

    def write(folder: Path) -> dict[str, Any]:
        index, rows = read_index(indexed), read_verified_split(split)
        images = np.load(prepared.folder / PIXELS, mmap_mode="r")
        masks_file = prepared.folder / MASKS
        masks = np.load(masks_file, mmap_mode="r") if masks_file.exists() else None
        facts = indexed.facts | {"origin": ", ".join(f"{v}" if k == "from" else f"{k} {v}" for k, v in origin.items())}
        card = describe(wanted, described, index, rows, images, facts)
        part = rows[rows["repeat"] == 0].set_index("image_id")["part"]
        (folder / MONTAGE).write_bytes(montage(index, part, images, masks, target_name))
        (folder / HISTOGRAMS).write_bytes(histograms(index, part, images, card, target_name))
        shown = [MONTAGE, HISTOGRAMS]
        if len(card.pairs):
            (folder / COPIES).write_bytes(copies(index, images, card, target_name))
            shown.append(COPIES)
        images_in_text = "\n".join(f"![{Path(name).stem}]({name})\n" for name in shown)
        (folder / CARD).write_text(f"{card.markdown}\n{images_in_text}", encoding="utf-8")
        card.trivial.to_parquet(folder / "trivial.parquet", index=False)
        card.pairs.to_parquet(folder / "pairs.parquet", index=False)
        return {
            "pictures": shown,
            "shifts": card.shifts,
            "leaks": card.leaks,
            "conflicts": card.conflicts,
            "warnings": indexed.facts["warnings"],
            "skipped": indexed.facts["skipped"],
        }

    return store.produce(DATASET_CARD, [target_name], write, inputs=[indexed, split, prepared])


def read_card(card: Result) -> str:
    """The text of a ``dataset_card``, without its images."""
    return (card.folder / CARD).read_text(encoding="utf-8").split("\n![")[0]
