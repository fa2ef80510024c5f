"""Every dataset and target: what it is, what it officially holds, where it comes from.

A *target* is what one model is trained for: a dataset, or one category of it. What belongs here: facts about the
data. What does not: reading files (``datasets/``).
"""

from dataclasses import dataclass
from typing import Literal

from rkd_pipeline.errors import UnknownName

Kind = Literal["texture", "object", "medical"]


@dataclass(frozen=True)
class Dataset:
    """A dataset as its publisher gives it out.

    Attributes:
        name: key, and folder name under ``RKD_DATA``.
        title: the publisher's title.
        layout: the files that must be there, for people to read.
        source: where it is published.
        licence: its terms, or that they are not established.
        citation: whom to cite.
    """

    name: str
    title: str
    layout: str
    source: str
    licence: str
    citation: str


@dataclass(frozen=True)
class Target:
    """What one model is trained for.

    Attributes:
        name: partition key, ``<dataset>`` or ``<dataset>.<category>``.
        dataset: the dataset it belongs to.
        category: the category, or the dataset's name where it has one target.
        kind: texture, object or medical.
        counts: official number of pictures, as (normal, anomalous).
        official_split: the publisher separates training from test; otherwise the paper's rule draws repeats.
        has_masks: defect pictures come with a ground-truth mask.
    """

    name: str
    dataset: str
    category: str
    kind: Kind
    counts: tuple[int, int]
    official_split: bool
    has_masks: bool


DATASETS = {
    d.name: d
    for d in (
        Dataset(
            "brain_mri",
            "Brain MRI Images for Brain Tumor Detection",
            "brain_mri/no/* (98 normal pictures) and brain_mri/yes/* (155 with a tumour)",
            "Kaggle: navoneel/brain-mri-images-for-brain-tumor-detection",
            "not stated by the publisher",
            "N. Chakrabarty, Brain MRI Images for Brain Tumor Detection, 2019",
        ),
        Dataset(
            "head_ct",
            "Head CT - hemorrhage",
            "head_ct/labels.csv (columns id, hemorrhage) and head_ct/head_ct/000.png to 199.png",
            "Kaggle: felipekitamura/head-ct-hemorrhage",
            "not stated by the publisher",
            "F. Kitamura, Head CT - hemorrhage, 2018",
        ),
        Dataset(
            "demo",
            "Generated demonstration pictures",
            "made on demand from a fixed seed, in the layout of MVTec AD",
            "this project, rkd_pipeline/datasets/demo/",
            "the project's own (Apache-2.0)",
            "none needed",
        ),
    )
}

TARGETS = {
    t.name: t
    for t in (
        Target("brain_mri", "brain_mri", "brain_mri", "medical", (98, 155), official_split=False, has_masks=False),
        Target("head_ct", "head_ct", "head_ct", "medical", (100, 100), official_split=False, has_masks=False),
        Target("demo.weave", "demo", "weave", "texture", (76, 24), official_split=True, has_masks=True),
        Target("demo.grain", "demo", "grain", "texture", (76, 24), official_split=True, has_masks=True),
        Target("demo.bracket", "demo", "bracket", "object", (76, 24), official_split=True, has_masks=True),
        Target("demo.print", "demo", "print", "object", (76, 24), official_split=True, has_masks=True),
    )
}


def dataset(name: str) -> Dataset:
    """The dataset of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return DATASETS[name]
    except KeyError:
        raise UnknownName("dataset", name, DATASETS) from None


def target(name: str) -> Target:
    """The target of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return TARGETS[name]
    except KeyError:
        raise UnknownName("target", name, TARGETS) from None


def targets_of(dataset_name: str) -> list[Target]:
    """All targets of a dataset, in the catalog's order."""
    return [t for t in TARGETS.values() if t.dataset == dataset_name]
