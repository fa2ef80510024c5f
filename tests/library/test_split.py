import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rkd_pipeline.data.catalog import TARGETS, Target
from rkd_pipeline.data.index import check_counts
from rkd_pipeline.data.split import OFFICIAL_REPEATS, REPEATS, part_of, redraws_test, split, verify
from rkd_pipeline.errors import DataError
from rkd_pipeline.recipes.lookup import recipe

MRI = TARGETS["brain_mri"]
WEAVE = TARGETS["demo.weave"]


def index(groups: list[int], anomalous: int = 5, part: str = "") -> pd.DataFrame:
    """An index whose normal images come in groups of equal pixels of the given sizes."""
    rows = [(f"n{g:03d}-{copy}", False, f"pixels{g}") for g, size in enumerate(groups) for copy in range(size)]
    rows += [(f"a{i:03d}", True, f"anomaly{i // 2}") for i in range(anomalous)]
    table = pd.DataFrame(rows, columns=["image_id", "anomalous", "pixel_sha256"])
    return table.assign(part=part)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=20, max_size=60), st.integers(1, 12))
def test_the_paper_s_rule_holds_for_any_groups_of_copies(groups: list[int], anomalous: int) -> None:
    table = index(groups, anomalous)
    rows = split(MRI, table)
    record = verify(MRI, table, rows)  # disjoint by pixels, complete, both classes, 25%
    assert record["repeats"] == REPEATS
    disjoint = len(groups) // 10
    pixels = table.set_index("image_id")["pixel_sha256"]
    drawn: list[str] = []
    for repeat in range(record["repeats"]):
        test = part_of(rows, MRI, repeat, "test")
        normal = [name for name in test if name.startswith("n")]
        assert len(normal) == 10
        assert len(test) == 10 + anomalous
        if repeat % disjoint == 0:
            drawn = []
        drawn += pixels[normal].tolist()
        assert len(drawn) == len(set(drawn))  # disjoint tens, until the normals are used up


def test_copies_of_a_test_image_are_set_aside() -> None:
    rows = split(MRI, index([2] * 20))
    for repeat in range(2):
        aside = part_of(rows, MRI, repeat, "set_aside")
        test = part_of(rows, MRI, repeat, "test")
        assert len(aside) == 10
        assert {n.split("-")[0] for n in aside} == {n.split("-")[0] for n in test if n.startswith("n")}


def test_the_split_is_the_same_every_time_and_for_any_order_of_the_index() -> None:
    table = index([1] * 30 + [2] * 5)
    shuffled = table.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(split(MRI, table), split(MRI, shuffled))


def test_an_official_split_is_kept_and_only_validation_is_drawn() -> None:
    table = pd.concat([index([1] * 40, 0, "train"), index([1] * 6, 4, "test").replace({"^n": "t"}, regex=True)])
    table["pixel_sha256"] = table["image_id"]
    rows = split(WEAVE, table)
    verify(WEAVE, table, rows)
    validation = [tuple(part_of(rows, WEAVE, r, "validation")) for r in range(OFFICIAL_REPEATS)]
    assert {len(v) for v in validation} == {10}
    assert len(set(validation)) > 1
    official = sorted(table.loc[table["part"] == "test", "image_id"])
    assert all(part_of(rows, WEAVE, r, "test") == official for r in range(OFFICIAL_REPEATS))


@pytest.mark.parametrize(
    ("normals", "calibrating"),
    [
        (88, 22),  # Brain MRI: a quarter
        (76, 19),
        (60, 19),  # toothbrush: more than a quarter, since 18 could not promise 5%
        (46, 19),  # 12 validate, 19 calibrate, 15 are left: a third
        (45, 0),
        (4, 0),
    ],
)
def test_a_calibration_part_is_as_large_as_a_threshold_needs_and_leaves_a_third_to_train_on(
    normals: int, calibrating: int
) -> None:
    table = pd.concat([index([1] * normals, 0, "train"), index([1] * 6, 4, "test").replace({"^n": "t"}, regex=True)])
    table["pixel_sha256"] = table["image_id"]
    rows = split(WEAVE, table)
    verify(WEAVE, table, rows)
    for repeat in range(OFFICIAL_REPEATS):
        held_out = set(part_of(rows, WEAVE, repeat, "calibration"))
        assert len(held_out) == calibrating
        assert held_out.isdisjoint(part_of(rows, WEAVE, repeat, "train", "validation", "test"))


def test_held_out_parts_are_what_a_recipe_does_not_train_on() -> None:
    for name, parts in {
        "rkd": {"train", "validation", "calibration"},
        "rkd-es": {"train", "calibration"},  # the paper's: a quarter for stopping, nothing else held out
        "rkd-cal": {"train", "validation"},
        "rkd-es-cal": {"train"},
        "us": {"train"},  # normalises by one part, calibrates by the other
    }.items():
        assert set(recipe(name).training_parts) == parts


def test_own_images_without_an_anomalous_one_all_train_and_a_given_test_part_stays() -> None:
    table = index([1] * 60, 0)
    rows = split(OWN, table)
    assert verify(OWN, table, rows)["test"] == 0
    assert len(part_of(rows, OWN, 0, "train", "validation", "calibration")) == 60
    given = table.assign(part=["train"] * 50 + ["test"] * 10)
    rows = split(OWN, given)
    assert verify(OWN, given, rows)["test"] == 10
    assert part_of(rows, OWN, 3, "test") == given["image_id"].tolist()[50:]


def test_too_few_normals_and_unknown_repeats_are_errors() -> None:
    with pytest.raises(DataError, match="9 distinct normal images"):
        split(MRI, index([2] * 9))
    rows = split(MRI, index([1] * 25))
    with pytest.raises(DataError, match=r"25 repeats \(0 to 24\), not 25; .* -s25r0"):
        part_of(rows, MRI, REPEATS, "test")


def swap(rows: pd.DataFrame, name: str, part: str) -> pd.DataFrame:
    changed = rows.copy()
    changed.loc[(changed["repeat"] == 0) & (changed["image_id"] == name), "part"] = part
    return changed


def test_verification_finds_every_defect() -> None:
    table = index([2] * 20)
    rows = split(MRI, table)
    first = {p: part_of(rows, MRI, 0, p) for p in ("train", "test", "set_aside", "validation")}
    normal_test = [n for n in first["test"] if n.startswith("n")]
    all_train = rows.copy()
    all_train.loc[all_train["part"] == "validation", "part"] = "train"
    table_of_60 = index([1] * 60)
    rows_of_60 = split(MRI, table_of_60)
    stolen = rows_of_60.copy()
    stolen.loc[stolen["part"] == "calibration", "part"] = "train"
    with pytest.raises(DataError, match="calibration has 0 of 50 distinct normal training images, not 19"):
        verify(MRI, table_of_60, stolen)
    one_class = rows.copy()
    one_class.loc[one_class["image_id"].isin(normal_test) & (one_class["repeat"] == 0), "part"] = "set_aside"
    defects = {
        "the same pixels on both sides": swap(rows, first["set_aside"][0], "train"),
        "an anomalous image outside the test part": swap(rows, "a000", "train"),
        "does not hold every image exactly once": rows.drop(index=rows.index[0]),
        "one class only": one_class,
        "validation has 0 of": all_train,
    }
    verify(MRI, table, rows)
    for says, broken in defects.items():
        with pytest.raises(DataError, match=says):
            verify(MRI, table, broken)


def test_official_counts_are_checked() -> None:
    target = Target("t", "t", "t", "medical", (20, 5), official_split=False, has_masks=False)
    check_counts(target, index([1] * 20))
    with pytest.raises(DataError, match="has 19 normal and 5 anomalous images; officially 20 and 5"):
        check_counts(target, index([1] * 19))


OWN = Target("mine", "mine", "mine", "object", None, official_split=False, has_masks=None, own=True)


def test_own_images_are_split_by_content_whatever_they_are_called() -> None:
    table = index([1] * 20 + [2] * 3)
    rows = split(OWN, table)
    assert verify(OWN, table, rows)["repeats"] == REPEATS
    tests = [{n for n in part_of(rows, OWN, r, "test") if n.startswith("n")} for r in range(REPEATS)]
    for folds in (tests[:5], tests[5:10]):
        assert sorted(len(t) for t in folds) == [4, 4, 5, 5, 5]
        assert len(set.union(*folds)) == 23  # disjoint, and together every distinct normal image
    assert set(map(frozenset, tests[:5])).isdisjoint(map(frozenset, tests[5:10]))
    renamed = table.assign(image_id="x" + table["image_id"])
    again = split(OWN, renamed)
    assert again["image_id"].str.removeprefix("x").tolist() == rows["image_id"].tolist()
    assert again["part"].tolist() == rows["part"].tolist()


def test_copies_of_official_test_images_do_not_train() -> None:
    table = pd.concat([index([1] * 12, 0, "train"), index([1] * 3, 4, "test").replace({"^n": "t"}, regex=True)])
    table["pixel_sha256"] = table["image_id"].str.replace("t000-0", "n005-0").to_numpy()
    rows = split(WEAVE, table)
    verify(WEAVE, table, rows)
    assert part_of(rows, WEAVE, 3, "set_aside") == ["n005-0"]
    assert "t000-0" in part_of(rows, WEAVE, 3, "test")


def test_whether_the_test_images_are_drawn_anew_is_seen_in_the_split() -> None:
    """Five folds of one's own images are; a test part that the owner has given is not, whatever the target is."""
    drawn = pd.DataFrame(
        {"repeat": [0, 0, 1, 1], "image_id": ["a", "b", "a", "b"], "part": ["test", "train", "train", "test"]}
    )
    given = drawn.assign(part=["test", "train", "test", "validation"])
    assert redraws_test(drawn)
    assert not redraws_test(given)
