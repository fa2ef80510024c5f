"""Greedy k-centre: rows as far from each other as possible (Sener and Savarese 2018; algorithm 1 of PatchCore).

The next row is always the one that is farthest from all chosen before. Done as it is written, each choice reads all N
rows: M choices among N rows of p numbers move 4 N M p bytes, and the memory's speed decides. Here distances are brought
up to date for many choices at once, in one matrix product, and between two such updates the choice is made among the
few rows that are far away: distances only shrink, so no other row can be the farthest while one of them is farther than
all others were at the last update. The choices are the same.
"""

import torch
from torch import Tensor

_FEW = 4096  # rows among which the farthest is looked for between two updates
_ROWS_AT_ONCE = 16_384


def farthest_first(rows: Tensor, count: int, first: int) -> Tensor:
    """Indices of ``count`` rows of ``(N, p)``, in the order in which they were chosen; int64 ``(count,)``.

    Args:
        rows: float32.
        count: at most N.
        first: the row to begin with.
    """
    if not 0 < count <= len(rows):
        raise ValueError(f"{count} of {len(rows)} rows cannot be chosen")
    squares = rows.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)  # squared distance to the chosen ones, as of the last update
    chosen, pending = [first], [first]
    while len(chosen) < count:
        _update(nearest, rows, squares, torch.tensor(pending, device=rows.device))
        pending = _among_the_farthest(nearest, rows, count - len(chosen))
        chosen += pending
    return torch.tensor(chosen)


def _update(nearest: Tensor, rows: Tensor, squares: Tensor, added: Tensor) -> None:
    """Bring ``nearest`` up to date with rows that were added; the chosen themselves are at -1: never chosen again."""
    centres, offsets = rows[added], squares[added]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        # |a - b|^2, without |a|^2, which is the same for all b.
        rest = torch.addmm(offsets, rows[part], centres.T, alpha=-2).amin(1)
        torch.minimum(nearest[part], (rest + squares[part]).clamp_min(0), out=nearest[part])
    nearest[added] = -1


def _among_the_farthest(nearest: Tensor, rows: Tensor, wanted: int) -> list[int]:
    """The next choices, at least one: as many as are certain without another look at all rows."""
    few = min(_FEW, len(nearest))
    values, where = nearest.topk(few)
    others = float(values[-1]) if few < len(nearest) else -1.0  # none outside is farther than that
    candidates = rows[where]
    found: list[int] = []
    while len(found) < wanted:
        at = int(values.argmax())
        if found and values[at] < others:
            break
        found.append(int(where[at]))
        values = torch.minimum(values, (candidates - candidates[at]).square().sum(1))
        values[at] = -1
    return found
