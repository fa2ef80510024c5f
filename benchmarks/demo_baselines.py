"""Trivial baselines on the demo targets, for docs/demo.md: ``python benchmarks/demo_baselines.py [--seed N]``."""

import argparse

import numpy as np

from rkd_pipeline.data import synthetic
from rkd_pipeline.detectors.baselines import nearest_colours, pixel_deviation
from rkd_pipeline.metrics.image_auroc import image_auroc
from rkd_pipeline.metrics.pixel_auroc import pixel_auroc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=synthetic.SEED, help="of the images, default %(default)s")
    seed = parser.parse_args().seed
    for target in synthetic.TARGETS:
        made = [synthetic.image(target, seed, number, defect) for number, defect in synthetic.contents(target)]
        pixels = np.stack([(255 * p).round().astype(np.uint8) for p, _ in made])
        masks = np.stack([m for _, m in made[synthetic.TRAIN :]])
        anomalous = masks.any((1, 2))
        areas = 100 * masks[anomalous].mean((1, 2))
        cells = [f"median {np.median(areas):.2f} %, smallest {areas.min():.2f} %"]
        for baseline in (pixel_deviation, nearest_colours):
            maps = baseline(pixels[: synthetic.TRAIN], pixels[synthetic.TRAIN :])
            cells.append(f"{image_auroc(anomalous, maps.max((1, 2))):.3f} / {pixel_auroc(maps, masks):.3f}")
        print(f"| {target} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
