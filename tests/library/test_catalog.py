"""Facts about datasets agree with each other, and with what their publishers say of the whole."""

import pytest

from rkd_pipeline.data.catalog import DATASETS, TARGETS, targets_of
from rkd_pipeline.data.layouts.bmad import FOLDERS
from rkd_pipeline.data.layouts.layout_of import list_images
from rkd_pipeline.data.user_targets import check_name
from rkd_pipeline.errors import DataError
from rkd_pipeline.recipes.plans import PLANS


@pytest.mark.parametrize(
    ("dataset", "categories", "normal", "anomalous", "tested"),
    [
        ("visa", 12, 9621, 1200, 962),  # the publisher's README; 8659 train
        ("btad", 3, 2250, 290, 451),  # 2540 images, of which 290 are ko
        ("mvtec_loco", 5, 1778 + 305 + 575, 561 + 432, 575),
        ("mvtec_ad_2", 8, 2528 + 302 + 379, 705, 379),
        ("mpdd", 6, 888 + 176, 282, 176),
        ("ksdd2", 1, 2979, 110, 894),  # 356 defective images, of which 246 are in the training part
    ],
)
def test_numbers_add_up_to_those_of_the_whole(
    dataset: str, categories: int, normal: int, anomalous: int, tested: int
) -> None:
    targets = targets_of(dataset)
    counts, tests = [t.counts or (0, 0) for t in targets], [t.test or (0, 0) for t in targets]
    assert len(targets) == categories
    assert tuple(map(sum, zip(*counts, strict=True))) == (normal, anomalous)
    assert tuple(map(sum, zip(*tests, strict=True))) == (tested, anomalous)


def test_where_no_source_is_at_hand_there_are_no_counts() -> None:
    without = {t.name for t in TARGETS.values() if t.counts is None}
    assert without == {f"bmad.{name}" for name in FOLDERS} | {f"dagm.class{n}" for n in (7, 8, 9, 10)}


def test_every_dataset_has_a_reader_that_says_what_it_expects(tmp_path_factory: pytest.TempPathFactory) -> None:
    for target in TARGETS.values():
        assert DATASETS[target.dataset].layout
        with pytest.raises(DataError, match=r"expected|does not exist"):
            list_images(target, tmp_path_factory.mktemp("empty"))


def test_whatever_can_be_downloaded_is_held_to_a_checksum() -> None:
    for described in DATASETS.values():
        if described.archive and described.archive.urls:
            digests = (described.archive.sha256, described.archive.md5)
            assert [len(d) for d in digests if d] in ([64], [32]), described.name
            assert all(url.startswith("https://") for url in described.archive.urls)


def test_names_differ_in_more_than_case() -> None:
    names = [n.casefold() for d in DATASETS.values() for n in {d.name.casefold(), *map(str.casefold, d.folders)}]
    assert len(names) == len(set(names))
    assert len({name.casefold() for name in TARGETS}) == len(TARGETS)


def test_an_own_target_that_has_a_dataset_s_name_since_before_stays() -> None:
    check_name("visa", new=False)
    for name, new in (("visa", True), ("ksdd2", False), ("visa.candle", False)):
        with pytest.raises(DataError, match="is a dataset of the catalog; choose another name"):
            check_name(name, new=new)


def test_plans_of_the_paper_train_on_its_datasets_alone() -> None:
    paper = {"brain_mri", "head_ct", "retinal_oct", "mvtec_ad", "demo"}
    assert {TARGETS[cell.target].dataset for plan in PLANS.values() for cell in plan()} <= paper
