"""What the commands about data say, beside what they do."""

from rkd_pipeline.cli.data_commands import _by_dataset


def test_a_dataset_of_which_nothing_is_there_is_named_once() -> None:
    names = ["head_ct", "btad.01", "btad.02", "btad.03", "visa.candle", "retinal_oct.half"]
    assert _by_dataset(names) == ["head_ct", "btad", "visa.candle", "retinal_oct.half"]
