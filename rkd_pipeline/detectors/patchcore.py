"""PatchCore (Roth et al. 2022): a bank of normal patches, and how far a patch is from the nearest of them.

AnomalyDINO (Damm et al. 2025) is the same with another bank, all patches, and another distance, the cosine's.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.detectors.coreset import farthest_first
from rkd_pipeline.detectors.patch_features import PatchDetector, PatchFeatures, PatchSystem
from rkd_pipeline.recipes.patch_recipes import PatchCore
from rkd_pipeline.training.task import FittingTask, TaskInputs

_BANK_AT_ONCE, _PATCHES_AT_ONCE = 8192, 4096  # of a matrix of distances, which is never whole in memory


class PatchCoreTask(FittingTask):
    """The bank: a coreset of the training patches."""

    def __init__(self, recipe: PatchCore, features: PatchFeatures, given: TaskInputs) -> None:
        self._recipe, self._features, self._given, self.notes = recipe, features, given, {}

    def fit(self) -> dict[str, Tensor]:
        """``bank (M, channels)``: the share of the patches that the recipe names, chosen far from each other."""
        rows = self._features.drawn(self._given, self._recipe.patches_at_most)
        if self._recipe.distance == "cosine":
            F.normalize(rows, dim=1, out=rows)
        count = max(1, round(self._recipe.share * len(rows)))
        self.notes |= {"bank": f"{count:,} of {len(rows):,} patches"}
        return {"bank": rows if count == len(rows) else self._chosen(rows, count)}

    def _chosen(self, rows: Tensor, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._given.seed)
        projection = torch.randn(rows.shape[1], self._recipe.projection, generator=generator).to(rows)
        first = int(torch.randint(len(rows), (1,), generator=generator))
        return rows[farthest_first(rows @ projection, count, first).to(rows.device)]


def nearest_of(rows: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest entry of ``bank (M, D)`` for each of ``rows (N, D)``, and which it is: ``(N,)`` each.

    Found by a matrix product, block by block, and then computed by subtraction: what the product loses to rounding
    where two are alike may confuse neighbours that are equally near, but not the distance.
    """
    squares = bank.square().sum(1)
    found = torch.empty(len(rows), dtype=torch.long, device=rows.device)
    for start in range(0, len(rows), _PATCHES_AT_ONCE):
        part = rows[start : start + _PATCHES_AT_ONCE]
        best = torch.full((len(part),), torch.inf, device=rows.device)
        where = torch.zeros(len(part), dtype=torch.long, device=rows.device)
        for at in range(0, len(bank), _BANK_AT_ONCE):
            stop = at + _BANK_AT_ONCE
            values, indices = torch.addmm(squares[at:stop], part, bank[at:stop].T, alpha=-2).min(1)
            closer = values < best
            best, where = torch.where(closer, values, best), torch.where(closer, indices + at, where)
        found[start : start + _PATCHES_AT_ONCE] = where
    return (rows - bank[found]).square().sum(1).sqrt(), found


def image_score(described: Tensor, distances: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Equations 6 and 7: the largest distance, weighted by how lonely the bank's entry next to that patch is.

    Args:
        described: patches ``(N, h, w, D)``.
        distances: of each to its nearest entry, ``(N, h, w)``.
        bank: ``(M, D)``.
        neighbours: entries around the nearest one, itself among them; of fewer the score is not weighted.

    Returns:
        ``(N,)``, not negative.
    """
    flat = distances.flatten(1)
    largest, where = flat.max(1)
    if neighbours > len(bank):
        return largest
    patches = described.flatten(1, 2)[torch.arange(len(flat), device=flat.device), where]
    _, entries = nearest_of(patches, bank)
    between = torch.cdist(bank[entries], bank, compute_mode="donot_use_mm_for_euclid_dist")
    around = between.topk(neighbours, largest=False).indices
    to_patch = (patches[:, None] - bank[around]).square().sum(2).sqrt()
    return (1 - torch.softmax(torch.cat([largest[:, None], to_patch[:, 1:]], 1), 1)[:, 0]) * largest


class PatchCoreDetector(PatchDetector):
    """The bank."""

    recipe: PatchCore

    def __init__(
        self, recipe: PatchCore, features: PatchFeatures, state: dict[str, Tensor], device: torch.device
    ) -> None:
        super().__init__(recipe, features, device)
        self._bank = state["bank"].to(device)

    def distances(self, described: Tensor) -> Tensor:
        """Distance to the nearest entry of the bank: Euclidean, or by cosine, which is half its square at length 1."""
        rows, cosine = described.flatten(0, 2), self.recipe.distance == "cosine"
        found, _ = nearest_of(F.normalize(rows, dim=1) if cosine else rows, self._bank)
        return (found.square() / 2 if cosine else found).view(described.shape[:3])

    def image_scores(self, described: Tensor, distances: Tensor) -> dict[str, Tensor]:
        """The mean of the farthest patches, or the weighted distance of the one that is farthest from the bank."""
        if self.recipe.top_share:
            return super().image_scores(described, distances)
        return {"image_score": image_score(described, distances, self._bank, self.recipe.neighbours)}


SYSTEM = PatchSystem(PatchCoreTask, PatchCoreDetector)
