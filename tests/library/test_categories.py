import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from rkd_pipeline.results.tables.categories import (
    TABLE_1,
    TABLE_2,
    TABLE_4,
    CategoryTable,
    category_cells,
    category_sheet,
    dataset_table,
)
from tests.library.rows import benchmark, localised, measured


def cell(cells: pd.DataFrame, title: str, system: str, metric: str) -> pd.Series:
    [row] = [r for _, r in cells.iterrows() if (r["title"], r["system"], r["metric"]) == (title, system, metric)]
    return row


def line(table: CategoryTable, cells: pd.DataFrame, title: str, row: str) -> dict[str, str]:
    """One printed row as heading to text, found by its category and its second column."""
    sheet = category_sheet(table, cells)
    current = ""
    for texts in sheet.rows:
        current = texts[0] or current
        if current == f"**{title}**" and texts[1] == row:
            return dict(zip(sheet.headings, texts, strict=True))
    raise AssertionError(f"no row {row!r} of {title}")


def test_the_paper_s_numbers_stand_where_it_has_them() -> None:
    cells = category_cells(TABLE_1, benchmark(), {})
    carpet = line(TABLE_1, cells, "Carpet", "published")
    assert (carpet["MKD: AUROC / PRO"], carpet["RKD: AUROC / PRO"], carpet["Ours: AUROC / PRO"]) == (
        "95.6 / –", "98.9 / 97.0", "82.0 / 73.6",
    )  # fmt: skip
    assert line(TABLE_1, cells, "Average of textures", "published")["Ours: AUROC / PRO"] == "87.1 / 80.3"
    objects = category_cells(TABLE_2, benchmark(), {})
    assert line(TABLE_2, objects, "Metal nut", "published")["Ours: AUROC / PRO"] == "98.4 / 96.3"
    assert line(TABLE_2, objects, "Average of objects", "published")["RKD: AUROC / PRO"] == "97.9 / 93.4"
    assert cells["measured"].isna().all()
    assert set(line(TABLE_1, cells, "Tile", "measured").values()) == {"", "measured", "not measured"}


def test_each_column_has_its_own_pro_and_aupro_beside() -> None:
    values = {"pixel_auroc": 0.9, "pro_youden": 0.8, "pro_rd4ad": 0.7, "aupro_30": 0.6}
    rows = [localised("tile", r, m, v) for r in ("rkd", "rkd-official") for m, v in values.items()]
    shown = line(TABLE_1, category_cells(TABLE_1, benchmark(*rows), {}), "Tile", "wide_resnet50_2, 200 epochs")
    assert shown["Ours: AUROC / PRO"] == "90.0 [89.0, 91.0] / 80.0 [79.0, 81.0] (1)"
    assert shown["RKD: AUROC / PRO"] == "90.0 [89.0, 91.0] / 70.0 [69.0, 71.0] (1)"
    assert shown["Ours: AUPRO"] == shown["RKD: AUPRO"] == "60.0 [59.0, 61.0]"


def test_table_4_compares_the_paper_s_four_textures_with_the_same_four() -> None:
    """The paper averages four textures of Ours+L_MKD against five of the others; RD's over the same is 97.3/94.4."""
    cells = category_cells(TABLE_4, benchmark(), {})
    same = line(TABLE_4, cells, "Average of textures", "published, the same 4")
    assert same["RKD: AUROC / PRO"] == "97.3 / 94.4"
    assert same["Ours+L_MKD: AUROC / PRO"] == "94.6 / 91.2"
    assert "Ours+L_MKD has 4 of 5 (without Grid)" in category_sheet(TABLE_4, cells).markdown()
    table_1 = category_sheet(TABLE_1, category_cells(TABLE_1, benchmark(), {}))
    assert not any("the same" in row[1] for row in table_1.rows)


def test_the_difference_to_published_keeps_the_measured_interval() -> None:
    cells = category_cells(TABLE_2, benchmark(localised("screw", "rkd", "pixel_auroc", 0.975, kind="object")), {})
    screw = cell(cells, "Screw", "Ours", "pixel_auroc")
    assert screw["difference"] == pytest.approx(0.975 - 0.995)
    assert line(TABLE_2, cells, "Screw", "difference")["Ours: AUROC / PRO"] == "-2.0 [-3.0, -1.0] / –"


def test_averages_are_over_what_is_measured_and_compare_the_same_categories() -> None:
    rows = [localised(c, "rkd", "pixel_auroc", v) for c, v in (("carpet", 0.9), ("grid", 0.8))]
    cells = category_cells(TABLE_1, benchmark(*rows), {})
    average = cell(cells, "Average", "Ours", "pixel_auroc")
    assert (average["measured"], average["over"]) == (pytest.approx(0.85), "Carpet, Grid")
    assert average["compared"] == pytest.approx((0.820 + 0.992) / 2)
    assert average["published"] == pytest.approx(0.871)
    half = np.hypot(0.01, 0.01) / 2  # independent categories
    assert (average["ci_low"], average["ci_high"]) == pytest.approx((0.85 - half, 0.85 + half))
    shown = line(TABLE_1, cells, "Average of textures", "wide_resnet50_2, 200 epochs")
    assert shown["Ours: AUROC / PRO"].endswith("(2 categories)")


def test_bold_only_where_the_interval_lies_above_all_others() -> None:
    def best(ours: float, rkd: float) -> list[bool]:
        rows = [localised("wood", "rkd", "pixel_auroc", ours), localised("wood", "rkd-official", "pixel_auroc", rkd)]
        cells = category_cells(TABLE_1, benchmark(*rows), {})
        return [bool(cell(cells, "Wood", s, "pixel_auroc")["best"]) for s in ("Ours", "RKD")]

    assert best(0.90, 0.85) == [True, False]
    assert best(0.85, 0.90) == [False, True]
    assert best(0.90, 0.895) == [False, False]
    alone = category_cells(TABLE_1, benchmark(localised("wood", "rkd", "pixel_auroc", 0.99)), {})
    assert not alone["best"].any()  # nothing to be better than; published numbers have no interval


def test_averages_over_different_categories_are_never_bold() -> None:
    rows = [localised(c, "rkd", "pixel_auroc", 0.9) for c in ("carpet", "grid")]
    rows += [localised(c, "rkd-official", "pixel_auroc", 0.5) for c in ("carpet", "wood")]
    cells = category_cells(TABLE_1, benchmark(*rows), {})
    assert not cell(cells, "Average", "Ours", "pixel_auroc")["best"]


def test_seeds_on_the_same_images_keep_the_images_error() -> None:
    values = [0.90, 0.92, 0.91]
    rows = [localised("tile", "rkd", "pixel_auroc", v, seed=s, training=f"rkd-s{s}") for s, v in enumerate(values)]
    tile = cell(category_cells(TABLE_1, benchmark(*rows), {}), "Tile", "Ours", "pixel_auroc")
    seeds = t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert tile["interval_method"] == "pictures_and_seeds"
    assert tile["ci_high"] == pytest.approx(0.91 + np.hypot(0.01, seeds))
    bare = [r | {"ci_low": None, "ci_high": None} for r in rows]
    tile = cell(category_cells(TABLE_1, benchmark(*bare), {}), "Tile", "Ours", "pixel_auroc")
    assert (tile["interval_method"], tile["ci_low"]) == ("seeds_only", pytest.approx(0.91 - seeds))


def test_a_target_s_note_is_printed_where_its_numbers_are() -> None:
    note = "file names of defect images were rebuilt in this copy: pixel-level numbers carry a small residual risk"
    rows = [
        localised("screw", "rkd", "pixel_auroc", 0.97, source=f"metrics/mvtec_ad.screw/rkd-s0; {note}"),
        localised("pill", "rkd", "pixel_auroc", 0.9),
    ]
    cells = category_cells(TABLE_2, benchmark(*rows), {})
    text = category_sheet(TABLE_2, cells).markdown()
    assert text.count(note) == 1
    shown = line(TABLE_2, cells, "Screw", "wide_resnet50_2, 200 epochs")
    assert shown["Ours: AUROC / PRO"].endswith("(1) †")
    assert "†" not in line(TABLE_2, cells, "Pill", "wide_resnet50_2, 200 epochs")["Ours: AUROC / PRO"]


def test_schedules_and_teachers_are_rows_of_their_own() -> None:
    rows = [
        localised("tile", "rkd", "pixel_auroc", 0.9),
        localised("tile", "rkd", "pixel_auroc", 0.7, epochs=40, training="rkd~40e-s0"),
        localised("tile", "rkd", "pixel_auroc", 0.8, teacher="resnet18", training="rkd@resnet18-s0"),
    ]
    cells = category_cells(TABLE_1, benchmark(*rows), {})
    tile = cells[(cells["title"] == "Tile") & (cells["system"] == "Ours") & (cells["metric"] == "pixel_auroc")]
    found = {(r["teacher"], r["epochs"]): r["measured"] for r in tile.to_dict("records")}
    assert found == {("wide_resnet50_2", 200): 0.9, ("wide_resnet50_2", 40): 0.7, ("resnet18", 200): 0.8}


def test_any_dataset_with_masks_has_such_a_table() -> None:
    """Textures before objects, a column per recipe; image and pixel AUROC as the pair."""
    rows = [
        measured(f"demo.{name}", recipe, 0, value, kind=kind, metric=metric, score_rule=rule, n_normal=40)
        for name, kind in (("weave", "texture"), ("grain", "texture"), ("bracket", "object"))
        for recipe in ("rkd", "rkd-official")
        for metric, rule, value in (("image_auroc", "map_max", 0.8), ("pixel_auroc", "map", 0.9))
    ]
    rows.append(measured("head_ct", "rkd", 0, 0.7))
    everything = benchmark(*rows)
    table = dataset_table("demo", "Demo", everything)
    assert [(b.title, [r.title for r in b.rows]) for b in table.blocks] == [
        ("Textures", ["grain", "weave"]),
        ("Objects", ["bracket"]),
    ]
    cells = category_cells(table, everything, {})
    shown = line(table, cells, "weave", "wide_resnet50_2, 200 epochs")
    assert shown["rkd: image / pixel AUROC"] == "80.0 [70.0, 90.0] / 90.0 [80.0, 100.0] (1)"
    assert shown["rkd: AUPRO"] == "not measured"
    assert dataset_table("demo", "Demo", benchmark()).blocks == ()


def test_where_each_recipe_has_a_length_of_its_own_the_headings_say_it() -> None:
    """One row per teacher then, and the best of it in bold; a second length of a recipe asks for rows again."""
    rows = [
        measured(
            "demo.weave", recipe, 0, value, kind="texture", metric=metric, score_rule=rule, n_normal=40, **schedule
        )
        for recipe, values, schedule in (
            ("rkd", (0.8, 0.9), {"epochs": 8, "training": "rkd~8e-s0"}),
            ("rkd-official", (0.8, 0.6), {"epochs": 16, "training": "rkd-official~16e-s0"}),
        )
        for (metric, rule), value in zip((("image_auroc", "map_max"), ("pixel_auroc", "map")), values, strict=True)
    ]
    everything = benchmark(*rows)
    table = dataset_table("demo", "Demo", everything)
    shown = line(table, category_cells(table, everything, {}), "weave", "wide_resnet50_2")
    assert shown["rkd, 8 epochs: image / pixel AUROC"] == "80.0 [70.0, 90.0] / **90.0 [80.0, 100.0]** (1)"
    assert shown["rkd-official, 16 epochs: image / pixel AUROC"] == "80.0 [70.0, 90.0] / 60.0 [50.0, 70.0] (1)"

    more = benchmark(*rows, rows[0] | {"epochs": 200, "training": "rkd-s0"})
    sheet = category_sheet(table, category_cells(table, more, {}))
    assert "rkd: image / pixel AUROC" in sheet.headings
    assert {row[1] for row in sheet.rows} == {f"wide_resnet50_2, {n} epochs" for n in (200, 16, 8)}
