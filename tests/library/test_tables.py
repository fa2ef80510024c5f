import numpy as np
import pandas as pd
import pytest

from rkd_pipeline.metrics.intervals import nadeau_bengio
from rkd_pipeline.results.published import published_rows
from rkd_pipeline.results.schema import COLUMNS
from rkd_pipeline.results.tables.seeds import few_images_note, remarks_on
from rkd_pipeline.results.tables.sheet import NOT_MEASURED
from rkd_pipeline.results.tables.table_3 import table_3, table_3_sheet
from tests.library.rows import benchmark, localised, measured

METHOD = "nadeau_bengio_and_pictures"


def cell(cells: pd.DataFrame, dataset: str, system: str) -> pd.Series:
    [row] = [r for _, r in cells.iterrows() if (r["dataset"], r["system"]) == (dataset, system)]
    return row


def test_published_values_stand_where_the_paper_has_them() -> None:
    cells = table_3(benchmark(), {})
    assert cell(cells, "brain_mri", "Ours+L_MKD AS")["published"] == pytest.approx(0.930)
    assert cell(cells, "retinal_oct.half", "Ours+L_KD AS")["published"] == pytest.approx(0.9024)
    assert pd.isna(cell(cells, "retinal_oct.half", "Ours+ES")["published"])
    assert cell(cells, "retinal_oct", "MKD")["published"] == pytest.approx(0.97)
    assert pd.isna(cell(cells, "retinal_oct", "Ours")["published"])  # the paper trained on half of it
    assert cells["measured"].isna().all()
    assert table_3_sheet(cells).markdown().count(NOT_MEASURED) == 24


def test_seeds_are_averaged_with_the_corrected_interval() -> None:
    values = [0.80, 0.85, 0.90]
    rows = [measured("brain_mri", "rkd", s, v) for s, v in enumerate(values)]
    cells = table_3(benchmark(*rows), {("brain_mri", f"rkd-s{s}"): 80 for s in range(3)})
    ours = cell(cells, "brain_mri", "Ours")
    expected = nadeau_bengio(values, 10 / 80)  # wider than the images' 0.1 times the same factor
    assert expected is not None
    assert (ours["measured"], ours["seeds"], ours["interval_method"]) == (pytest.approx(0.85), 3, METHOD)
    assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert ours["seed_sd"] == pytest.approx(0.05)


def test_repeats_that_agree_by_chance_are_no_surer_than_their_images() -> None:
    """Three perfect splits: no spread, which as an interval would be [1, 1]. Each is known to 0.1 only."""
    rows = [measured("brain_mri", "rkd", s, 1.0) for s in range(3)]
    ours = cell(table_3(benchmark(*rows), {("brain_mri", f"rkd-s{s}"): 80 for s in range(3)}), "brain_mri", "Ours")
    assert (ours["ci_low"], ours["ci_high"]) == (pytest.approx(1 - 0.1 * np.sqrt(1 / 3 + 10 / 80)), 1)


def test_the_sheet_prints_the_interval() -> None:
    rows = [measured("brain_mri", "rkd", s, v) for s, v in enumerate((0.80, 0.85, 0.90))]
    cells = table_3(benchmark(*rows), {("brain_mri", f"rkd-s{s}"): 80 for s in range(3)})
    assert "85.0 [" in table_3_sheet(cells).markdown()


def test_one_seed_keeps_the_interval_of_its_test_images() -> None:
    cells = table_3(benchmark(measured("head_ct", "rkd-mkd", 0, 0.7)), {("head_ct", "rkd-mkd-s0"): 90})
    ours = cell(cells, "head_ct", "Ours+L_MKD")
    assert (ours["interval_method"], ours["ci_low"], ours["ci_high"]) == (
        "delong",
        pytest.approx(0.6),
        pytest.approx(0.8),
    )
    assert pd.isna(ours["seed_sd"])


def test_schedules_and_teachers_are_never_averaged_together() -> None:
    rows = [
        measured("head_ct", "rkd", 0, 0.7),
        measured("head_ct", "rkd", 1, 0.5, epochs=10, training="rkd~10e-s1"),
        measured("head_ct", "rkd", 2, 0.9, teacher="resnet18", training="rkd@resnet18-s2"),
    ]
    cells = table_3(benchmark(*rows), {("head_ct", str(r["training"])): 90 for r in rows})
    ours = cells[(cells["dataset"] == "head_ct") & (cells["system"] == "Ours")]
    found = {(r["teacher"], r["epochs"]): r["measured"] for r in ours.to_dict("records")}
    assert found == {("wide_resnet50_2", 200): 0.7, ("wide_resnet50_2", 10): 0.5, ("resnet18", 200): 0.9}
    text = table_3_sheet(cells).markdown()
    assert "shorter than a recipe's own" in text


def test_each_column_reads_its_own_score() -> None:
    rows = [
        measured("brain_mri", "rkd", 0, 0.1),
        measured("brain_mri", "rkd", 0, 0.2, score_rule="l_kd"),
        measured("brain_mri", "rkd-mkd", 0, 0.3),
        measured("brain_mri", "rkd-mkd", 0, 0.4, score_rule="l_mkd"),
        measured("brain_mri", "rkd-es", 0, 0.5),
        measured("brain_mri", "rkd-official", 0, 0.6),
    ]
    cells = table_3(benchmark(*rows), {("brain_mri", str(r["training"])): 80 for r in rows})
    of = cells[cells["dataset"] == "brain_mri"].set_index("system")["measured"]
    assert of.drop("MKD").to_dict() == {
        "Ours": 0.1, "Ours+ES": 0.5, "Ours+L_KD AS": 0.2, "Ours+L_MKD": 0.3, "Ours+L_MKD AS": 0.4,
    }  # fmt: skip


def test_early_stopping_that_could_not_act_is_said() -> None:
    rows = [measured("head_ct", "rkd-es", 0, 0.7, epochs=10, training="rkd-es~10e-s0")]
    text = table_3_sheet(table_3(benchmark(*rows), {("head_ct", "rkd-es~10e-s0"): 68})).markdown()
    assert "10 epochs are too few for early stopping to act (patience 15)" in text


def test_published_rows_fit_the_table_and_say_where_they_are_from() -> None:
    rows = published_rows()
    assert list(rows.columns) == list(COLUMNS)
    assert rows["value"].between(0, 1).all()
    assert (rows["source"].str.len() > 5).all()
    assert rows["verified"].str.match("read|recalled").all()


def test_what_must_be_said_about_images_stands_below_their_cells() -> None:
    said = "without 1 of 200 files, which could not be used"
    row = measured("head_ct", "rkd", 0, 0.7, n_normal=50, source=f"metrics/head_ct/rkd-s0; {said}")
    cells = table_3(benchmark(row), {("head_ct", "rkd-s0"): 90})
    assert cell(cells, "head_ct", "Ours")["note"] == said
    assert cell(cells, "head_ct", "Ours+ES")["note"] == ""
    assert said in table_3_sheet(cells).markdown()


def test_an_interval_from_few_images_says_what_it_cannot_promise() -> None:
    """Brain MRI tests on ten normal images; the same number from fifty and more needs no such word."""
    few = measured("brain_mri", "rkd", 0, 0.9, n_normal=10, n_anomalous=155)
    enough = measured("head_ct", "rkd", 0, 0.9, n_normal=50, n_anomalous=50)
    cells = table_3(benchmark(few, enough), {(r["target"], r["training"]): 80 for r in (few, enough)})
    notes = cells[cells["measured"].notna()].set_index("dataset")["note"]
    assert "10 test images of a class" in notes["brain_mri"]
    assert "88 to 93%" in notes["brain_mri"]
    assert notes["head_ct"] == ""
    pixels = localised("carpet", "rkd", "pixel_auroc", 0.9)
    assert few_images_note(benchmark(pixels).iloc[:1]) == ""  # no image AUROC, no word about its interval


@pytest.mark.parametrize(
    ("normal", "anomalous", "said"), [(10, 10, True), (10, 20, False), (19, 19, True), (20, 5, False)]
)
def test_the_interval_of_a_pixel_auroc_says_where_it_is_too_narrow(normal: int, anomalous: int, said: bool) -> None:
    row = {"metric": "pixel_auroc", "value": 0.9, "n_normal": normal, "n_anomalous": anomalous, "source": None}
    assert ("91% of cases" in remarks_on(pd.DataFrame([row]))) == said
    assert remarks_on(pd.DataFrame([row | {"value": None}])) == ""
