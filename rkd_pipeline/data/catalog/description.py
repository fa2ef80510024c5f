"""What the catalog says of a dataset, of its archive, and of a target."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["texture", "object", "medical"]


@dataclass(frozen=True)
class Archive:
    """How a dataset is fetched.

    Attributes:
        names: file names under which a local copy is looked for in ``RKD_ARCHIVES``.
        sha256: of the publisher's file; None where a mirror packs it anew, or no source is at hand.
        size: of that file, in bytes.
        urls: where it is downloaded from, tried in this order; ``RKD_MVTEC_AD_URLS`` replaces those of MVTec AD.
        kaggle: handle on Kaggle, for ``kagglehub`` with the user's own credentials.
        md5: of the publisher's file, where no SHA-256 is at hand.
    """

    names: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None
    urls: tuple[str, ...] = ()
    kaggle: str | None = None
    md5: str | None = None


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
        archive: how it can be fetched; None where there is nothing to fetch.
        folders: other names of its folder under ``RKD_DATA``: what the publisher's archive, or its usual copy, unpacks
            to. Upper or lower case does not matter.
        note: what a reader of its numbers must know; empty where there is nothing.
    """

    name: str
    title: str
    layout: str
    source: str
    licence: str
    citation: str
    archive: Archive | None = None
    folders: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Target:
    """What one model is trained for.

    Attributes:
        name: partition key, ``<dataset>`` or ``<dataset>.<category>``.
        dataset: the dataset it belongs to.
        category: its folder in the dataset's, or what the dataset's reader knows it by; the dataset's name where it has
            one target.
        kind: texture, object or medical.
        counts: official number of images that are used, as (normal, anomalous); None where no source is at hand.
            Anomalous images of a training or validation part do not count: they are named and not used.
        official_split: the publisher separates training from test; otherwise a rule draws repeats.
        has_masks: defect images come with a ground-truth mask; None: see what is found.
        test: official number of test images, as (normal, anomalous); None where there is no official split, or no
            source of its size.
        own: the user's own images, from ``targets.toml``.
        side: of the publisher's images, in pixels, where all are square and of one size; None where nobody says.
    """

    name: str
    dataset: str
    category: str
    kind: Kind
    counts: tuple[int, int] | None
    official_split: bool
    has_masks: bool | None
    test: tuple[int, int] | None = None
    own: bool = False
    side: int | None = None


def split_by_publisher(
    dataset: str, category: str, kind: Kind, train: int, test: tuple[int, int], *, masks: bool = True
) -> Target:
    """A category whose publisher says which images train (``train`` normal ones) and which test (normal, anomalous)."""
    name = f"{dataset}.{category}"
    return Target(name, dataset, category, kind, (train + test[0], test[1]), True, masks, test)
