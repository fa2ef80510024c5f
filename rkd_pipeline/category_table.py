"""Results of a set of trainings, category by category: textures, then objects, as the paper's Tables 1 and 2.

Works on what the store holds; a training that is not done leaves a gap, and a mean with a gap is not printed.
"""

from collections.abc import Sequence

import pandas as pd

from rkd_pipeline.catalog import TARGETS
from rkd_pipeline.flow import METRICS
from rkd_pipeline.stages.evaluation import read_metrics, value_of
from rkd_pipeline.status import training_state
from rkd_pipeline.store import Ref, Store
from rkd_pipeline.training_key import TrainingKey

GAP = "—"
_KINDS = ("texture", "object", "medical")


def category_table(store: Store, cells: Sequence[tuple[str, str]]) -> str:
    """Markdown: a row per target with means per kind and over all, a column per training; image / pixel AUROC.

    Empty where no target of ``cells`` (pairs of target and training) has masks: those have tables of their own.
    """
    targets = [t for t in TARGETS.values() if t.has_masks and any(t.name == name for name, _ in cells)]
    if not targets:
        return ""
    rows: list[dict[str, str]] = []
    trainings = list(dict.fromkeys(training for _, training in cells))
    values = {(t.name, k): _aurocs(store, t.name, k) for t in targets for k in trainings if (t.name, k) in set(cells)}
    kinds = [k for k in _KINDS if any(t.kind == k for t in targets)]
    for kind in kinds:
        members = [t.name for t in targets if t.kind == kind]
        rows += [_row(name, [name], trainings, values) for name in members]
        if len(members) > 1:
            rows.append(_row(f"mean of {kind}s", members, trainings, values))
    if len(kinds) > 1:
        rows.append(_row("mean", [t.name for t in targets], trainings, values))
    return pd.DataFrame(rows).to_markdown(index=False)


def _aurocs(store: Store, target: str, training: str) -> tuple[float, float] | None:
    """Image AUROC of the map's maximum, and pixel AUROC; None where there is no valid result."""
    metrics = store.find(Ref(METRICS.name, target, training))
    if metrics is None or training_state(store, target, training) != "done":
        return None
    table = read_metrics(metrics)
    image, pixel = value_of(table, "image_auroc", "map_max"), value_of(table, "pixel_auroc", "map")
    return None if image is None or pixel is None else (image, pixel)


def _row(
    title: str,
    targets: Sequence[str],
    trainings: Sequence[str],
    values: dict[tuple[str, str], tuple[float, float] | None],
) -> dict[str, str]:
    row = {"category": title}
    for training in trainings:
        found = [v for t in targets if (v := values.get((t, training))) is not None]
        means = [100 * sum(part) / len(found) for part in zip(*found, strict=True)]
        row[_heading(training)] = f"{means[0]:.1f} / {means[1]:.1f}" if len(found) == len(targets) else GAP
    return row


def _heading(training: str) -> str:
    key = TrainingKey.parse(training)
    return f"{key.recipe.name}, teacher {key.teacher}, {key.epochs} epochs, seed {key.seed}"
