import pytest

from rkd_pipeline import category_table
from rkd_pipeline.store import Store

FIRST, SECOND = "rkd-official@embedded~8e-s0", "rkd-mkd-es@embedded~8e-s0"
VALUES = {
    ("demo.weave", FIRST): (0.9, 0.8),
    ("demo.grain", FIRST): (0.7, 0.6),
    ("demo.bracket", FIRST): (1.0, 0.5),
    ("demo.weave", SECOND): (0.5, 0.4),
}


def rows(store: Store, cells: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    monkeypatch.setattr(category_table, "_aurocs", lambda store, target, training: VALUES.get((target, training)))
    lines = category_table.category_table(store, cells).splitlines()
    split = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return {line[0]: line[1:] for line in split}


def test_textures_stand_before_objects_and_means_need_all_their_members(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(store, list(VALUES), monkeypatch)
    assert table == table | {
        "category": [
            "rkd-official, teacher embedded, 8 epochs, seed 0",
            "rkd-mkd-es, teacher embedded, 8 epochs, seed 0",
        ],
        "demo.weave": ["90.0 / 80.0", "50.0 / 40.0"],
        "demo.grain": ["70.0 / 60.0", category_table.GAP],
        "mean of textures": ["80.0 / 70.0", category_table.GAP],
        "demo.bracket": ["100.0 / 50.0", category_table.GAP],
        "mean": ["86.7 / 63.3", category_table.GAP],
    }
    assert list(table)[2:] == ["demo.weave", "demo.grain", "mean of textures", "demo.bracket", "mean"]


def test_what_is_not_done_is_a_gap_and_targets_without_masks_have_no_row(store: Store) -> None:
    assert category_table.category_table(store, [("brain_mri", "rkd-s0")]) == ""
    assert category_table.GAP in category_table.category_table(store, [("demo.weave", FIRST), ("brain_mri", FIRST)])
