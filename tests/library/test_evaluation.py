"""A target of which somebody drew the masks of some defects only, from its files to the benchmark's rows."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rkd_pipeline.results.figures
from rkd_pipeline.data.split import part_of
from rkd_pipeline.data.user_targets import make_entry, targets_in
from rkd_pipeline.recipes.training_key import TrainingKey
from rkd_pipeline.stages import datasets
from rkd_pipeline.stages.anomaly_scores import evaluate, read_metrics
from rkd_pipeline.stages.benchmark import build_benchmark, read_benchmark
from rkd_pipeline.stages.evidence import gather_evidence
from rkd_pipeline.stages.trained_model import training_parameters
from rkd_pipeline.store.result_store import Store
from rkd_pipeline.store.stage_versions import ANOMALY_SCORES, TRAINED_MODEL

TARGET, TRAINING = "mine", "rkd@resnet18.random~1e-s0"
DEFECTS, DRAWN = 6, 3


@pytest.fixture
def scored(store: Store, tmp_path: Path) -> Store:
    """Real images, masks and split; made-up maps, which are the true defects."""
    base, rows = tmp_path / "own", ["path,label,split,mask"]
    base.mkdir()
    rng = np.random.default_rng(0)
    truth = {}
    for i in range(8 + 4 + DEFECTS):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(base / f"{i:02d}.png")
        mask = np.zeros((224, 224), bool)
        if i >= 12:
            mask[28 * (i - 11) : 28 * (i - 10), 56:112] = True
        truth[f"{i:02d}.png"] = mask
        drawn = 12 <= i < 12 + DRAWN
        if drawn:
            Image.fromarray(255 * mask.astype(np.uint8)).resize((64, 64), 0).save(base / f"{i:02d}_mask.png")
        label, part = ("bad" if i >= 12 else "good"), ("train" if i < 8 else "test")
        rows.append(f"{i:02d}.png,{label},{part},{f'{i:02d}_mask.png' if drawn else ''}")
    (base / "list.csv").write_text("\n".join(rows))
    targets_in(store).add(make_entry(TARGET, str(base / "list.csv")))
    datasets.find_source(store, base, TARGET)
    datasets.index_images(store, TARGET)
    split = datasets.split_images(store, TARGET)
    key = TrainingKey.parse(TRAINING)
    datasets.prepare_images(store, TARGET, key.recipe.side)
    prepared, arrays = datasets.open_prepared(store, TARGET, key.recipe.side)

    def train(into: Path) -> dict[str, object]:
        history = {"epoch": [1], "train_loss": [1.0], "validation_loss": [None]}
        pd.DataFrame(history).to_parquet(into / "history.parquet")
        return {"train_pictures": 8, "best_epoch": 1, "device": "cpu, bf16", "threads": 2}

    inputs = [split, prepared]
    parameters = training_parameters(key)
    model = store.produce(TRAINED_MODEL, [TARGET, TRAINING], train, parameters=parameters, inputs=inputs)

    def score(into: Path) -> dict[str, object]:
        ids = part_of(datasets.read_verified_split(split), targets_in(store).target(TARGET), key.repeat, "test")
        # The masks that were drawn, as they came out at this size; the others' truth.
        masks = np.where(arrays.masks(ids).any((1, 2))[:, None, None], arrays.masks(ids), [truth[i] for i in ids])
        table = pd.DataFrame({"image_id": ids, "part": "test", "anomalous": [i >= "12" for i in ids], "defect": "bad"})
        values = masks.max((1, 2)) + 0.1 * np.arange(len(ids))
        table.assign(map_max=values).to_parquet(into / "scores.parquet", index=False)
        np.save(into / "maps.npy", masks.astype(np.float32) + 0.1 * rng.random(masks.shape, np.float32))
        return {"device": "cpu, fp32", "threads": 2, "cpu": "AVX2"}

    store.produce(ANOMALY_SCORES, [TARGET, TRAINING], score, inputs=[model, split, prepared])
    return store


def test_defects_without_a_mask_leave_the_pixel_metrics_and_every_place_says_so(
    scored: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    captions: list[str] = []
    strip = rkd_pipeline.results.figures.map_strip
    monkeypatch.setattr(
        rkd_pipeline.results.figures, "map_strip", lambda p, m, c, *rest: (captions.extend(c), strip(p, m, c, *rest))[1]
    )
    with caplog.at_level(logging.WARNING):
        metrics = read_metrics(evaluate(scored, TARGET, TRAINING))
    said = "3 anomalous test images have no mask that shows a defect, and left the pixel metrics"
    assert said in caplog.text
    # Scores rise with the image's number, and the last three have no mask: the highest, not the median and the lowest.
    assert ["no mask" in c for c in captions] == [False, False, False, True, False, False]
    pixels = metrics[metrics["score_rule"] == "map"].set_index("metric")
    assert pixels.loc[["aupro_30", "pixel_ap", "pixel_auroc"], "value"].tolist() == pytest.approx([1, 1, 1])
    assert pixels["n_anomalous"].unique().tolist() == pixels["n_without_mask"].unique().tolist() == [3]
    image = metrics[metrics["metric"] == "image_auroc"].iloc[0]
    assert (image["n_normal"], image["n_anomalous"]) == (4, 6)
    assert gather_evidence(scored, TARGET, TRAINING).facts["regions"] == 3

    rows = read_benchmark(build_benchmark(scored))
    rows = rows[rows["origin"] == "measured"]
    of_pixels = rows["score_rule"] == "map"
    assert rows.loc[of_pixels, "source"].str.endswith(said).all()
    assert not rows.loc[~of_pixels, "source"].str.contains("mask").any()
    assert rows["computed_on"].unique().tolist() == [
        "trained: cpu, bf16, 2 threads, CPU instructions not recorded; scored: cpu, fp32, 2 threads, AVX2"
    ]
