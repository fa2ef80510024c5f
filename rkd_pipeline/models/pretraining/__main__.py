"""Make the embedded teacher: ``python -m rkd_pipeline.models.pretraining --output FILE``."""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rkd_pipeline.device import Compute
from rkd_pipeline.models.pretraining.classifier import Settings, pretrain, settling
from rkd_pipeline.models.pretraining.formula_images import draw_collection
from rkd_pipeline.store.files import write_atomically


def main() -> None:
    """Draw the images, train in two stages, and write the weights after every epoch."""
    defaults = Settings()
    parser = argparse.ArgumentParser("python -m rkd_pipeline.models.pretraining", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a .safetensors file, written after every epoch")
    parser.add_argument("--classes", type=int, default=defaults.classes, help="formulas, default %(default)s")
    parser.add_argument("--per-class", type=int, default=defaults.per_class, help="images each, default %(default)s")
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default %(default)s")
    parser.add_argument("--settle", type=Path, metavar="FILE", help="a file of the first stage: only do the second")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()

    settings = Settings(classes=options.classes, per_class=options.per_class, epochs=options.epochs, seed=options.seed)
    compute, started = Compute.choose(options.device), time.monotonic()
    print(f"{compute.label}, {torch.get_num_threads()} threads; {settings}", flush=True)

    def images(settings: Settings) -> np.ndarray[Any, Any]:
        return draw_collection(
            settings.classes, settings.per_class, settings.side, settings.seed, torch.get_num_threads()
        )

    def stage(settings: Settings, start: dict[str, Tensor] | None) -> None:
        def after_epoch(epoch: int, loss: float, accuracy: float, state: dict[str, Tensor]) -> None:
            notes = {"settings": json.dumps(asdict(settings)), "epoch": str(epoch), "licence": "Apache-2.0"}
            write_atomically(options.output, save(state, notes))
            minutes = (time.monotonic() - started) / 60
            print(f"epoch {epoch}: loss {loss:.3f}, unmixed accuracy {accuracy:.3f}, {minutes:.1f} minutes", flush=True)

        pretrain(settings, images(settings), compute, after_epoch, start)

    if options.settle is None:
        stage(settings, None)
    stage(settling(settings), load_file(options.settle or options.output))


if __name__ == "__main__":
    main()
