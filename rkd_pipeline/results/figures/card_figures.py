"""The images of a dataset card: a montage, histograms, and pairs of copies. PNG bytes, colour-blind-safe."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import binary_dilation

from rkd_pipeline.data.split import TRAINING_PARTS
from rkd_pipeline.names import shown as shown_name
from rkd_pipeline.results.card_content import Card, between_training_and_test
from rkd_pipeline.results.figures import BLUE, GREY, NO_MASK, ORANGE, png

_COLUMNS, _ROWS = 8, 14
_GREY = np.array([0.299, 0.587, 0.114])
_OUTLINE = "#00E5FF"  # seen on light and dark, grey and coloured ground


def montage(
    index: pd.DataFrame, split: "pd.Series[str]", images: np.ndarray, masks: np.ndarray | None, title: str
) -> bytes:
    """Rows of examples: training normals, test normals, and each kind of defect with its masks outlined.

    Args:
        index: columns image_id, defect, anomalous; N rows.
        split: part of each image in the first repeat, by id.
        images: uint8 ``(N, S, S, 3)``, memory-mapped or not; ``masks``: bool ``(N, S, S)`` or None.
        title: of the figure.
    """
    part = index["image_id"].map(split)
    normal = ~index["anomalous"]
    rows = {"train, good": normal & part.isin(TRAINING_PARTS), "test, good": normal & (part == "test")}
    for defect in sorted(index.loc[~normal, "defect"].unique()):
        rows[f"test, {defect}"] = ~normal & (index["defect"] == defect)
    shown = [(name, np.flatnonzero(which)) for name, which in rows.items() if which.any()]
    left_out = shown[_ROWS:]
    shown = shown[:_ROWS]
    figure = Figure(figsize=(1.25 * _COLUMNS + 1.3, 1.3 * len(shown) + 0.5), layout="constrained")
    axes = figure.subplots(len(shown), _COLUMNS, squeeze=False)
    for line, (name, members) in zip(axes, shown, strict=True):
        chosen = members[np.linspace(0, len(members) - 1, min(_COLUMNS, len(members))).astype(int)]
        for axis in line:
            axis.axis("off")
        for axis, number in zip(line, chosen, strict=False):
            axis.imshow(images[number])
            if masks is not None and masks[number].any():
                around = binary_dilation(masks[number], iterations=3)  # small defects stay visible inside
                axis.contour(around, [0.5], colors="black", linewidths=2.0)
                axis.contour(around, [0.5], colors=_OUTLINE, linewidths=1.0)
            elif masks is not None and index["anomalous"].iloc[number]:
                axis.set_title(NO_MASK, fontsize=7, pad=1)
        line[0].text(
            -0.08,
            0.5,
            f"{shown_name(name, 40)}\n({len(members)})",
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    more = f"; {len(left_out)} more kinds of defect are not shown" if left_out else ""
    outlined = ", masks outlined" if masks is not None else ""
    figure.suptitle(f"{title}: examples{outlined}{more}", fontsize=11)
    return png(figure)


def histograms(index: pd.DataFrame, split: "pd.Series[str]", images: np.ndarray, card: Card, title: str) -> bytes:
    """Grey values of all pixels, then per image the mean grey, the contrast, the file size and the image size.

    Three groups each: training normals, test normals, test anomalies; the image AUROC of the statistic stands above.
    """
    part = index["image_id"].map(split)
    groups = [
        ("train, good", ~index["anomalous"] & part.isin(TRAINING_PARTS), GREY, "-"),
        ("test, good", ~index["anomalous"] & (part == "test"), BLUE, "-"),
        ("test, anomalous", index["anomalous"], ORANGE, "--"),
    ]
    figure = Figure(figsize=(13, 2.9), layout="constrained")
    axes = figure.subplots(1, 5)
    for name, which, colour, style in groups:
        counts = _grey_histogram(images, np.flatnonzero(which))
        axes[0].plot(np.arange(0, 256, 4) + 2, counts / max(counts.sum(), 1), style, color=colour, label=name)
    axes[0].set(xlabel="grey value of pixels", ylabel="share", title="intensity", yticks=[])
    axes[0].legend(frameon=False, fontsize=7)
    auroc = {row.statistic: f"\nimage AUROC {row.auroc:.2f}" for row in card.trivial.itertuples()}
    statistics = {
        "mean intensity": (255 * index["mean"], "mean grey"),
        "contrast": (255 * index["contrast"], "standard deviation of grey"),
        "file size": (index["bytes"] / 1024, "KiB"),
        "image size": (index["width"] * index["height"] / 1e6, "megapixels"),
    }
    for axis, (name, (values, unit)) in zip(axes[1:], statistics.items(), strict=True):
        _distributions(axis, values.to_numpy(np.float64), groups)
        axis.set(xlabel=unit, title=f"{name}{auroc.get(name, '')}", yticks=[])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(9)
    figure.suptitle(title, fontsize=11)
    return png(figure)


def _distributions(axis: Axes, values: np.ndarray, groups: list[tuple[str, "pd.Series[bool]", str, str]]) -> None:
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 0.05 * high
    edges = np.linspace(low - margin, high + margin, 25)
    for _, which, colour, style in groups:
        chosen = values[np.flatnonzero(which)]
        if len(chosen):
            heights = np.histogram(chosen, edges)[0] / len(chosen)
            axis.stairs(heights, edges, color=colour, ls=style, lw=1.4)


def _grey_histogram(images: np.ndarray, members: np.ndarray, most: int = 400) -> np.ndarray:
    """64 counts over at most ``most`` of the images, evenly chosen."""
    counts = np.zeros(64)
    for number in (
        members[np.linspace(0, len(members) - 1, min(most, len(members))).astype(int)] if len(members) else ()
    ):
        counts += np.histogram(images[number] @ _GREY, 64, (0, 256))[0]
    return counts


def copies(index: pd.DataFrame, images: np.ndarray, card: Card, title: str) -> bytes:
    """Up to eight pairs that are alike, one above the other; those between training and test come first."""
    row = {name: number for number, name in enumerate(index["image_id"])}
    order = card.pairs.assign(across=between_training_and_test(card.pairs)).sort_values(
        ["across", "identical"], ascending=[False, True], kind="stable"
    )
    shown = order.head(_COLUMNS)
    figure = Figure(figsize=(1.5 * _COLUMNS, 4.0), layout="constrained")
    axes = figure.subplots(2, _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, pair in zip(axes.T, shown.itertuples(), strict=False):
        for axis, name, part in zip(line, (pair.first, pair.second), (pair.first_part, pair.second_part), strict=True):
            axis.imshow(images[row[name]])
            axis.set_title(f"{part}\n{shown_name(name)[-22:]}", fontsize=7)
    rest = f", {len(card.pairs) - len(shown)} more not shown" if len(card.pairs) > len(shown) else ""
    figure.suptitle(f"{title}: pairs that are alike ({len(card.pairs)} in all{rest})", fontsize=11)
    return png(figure)
