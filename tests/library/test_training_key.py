import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkd_pipeline.errors import BadKey, RkdError
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.training_key import TrainingKey

teachers = st.sampled_from(
    ["resnet18", "wide_resnet50_2", "resnet18.random", "embedded", "resnet50.imagenet1k_v2", "resnet18.4c740094"]
)


@given(
    recipe=st.sampled_from(sorted(RECIPES)),
    seed=st.integers(0, 10**6),
    teacher=st.none() | teachers,
    epochs=st.none() | st.integers(1, 999),
    repeat=st.none() | st.integers(0, 99),
)
def test_a_composed_key_parses_to_itself(
    recipe: str, seed: int, teacher: str | None, epochs: int | None, repeat: int | None
) -> None:
    chosen = RECIPES[recipe]
    # A recipe of a system without epochs has no such part; not every system takes every teacher, or any.
    named = TeacherName.parse(teacher) if teacher else None
    named = named if named and named.arch in chosen.networks else None
    epochs = epochs if chosen.epochs is not None else None
    key = TrainingKey.compose(recipe, seed=seed, teacher=named, epochs=epochs, repeat=repeat)
    assert TrainingKey.parse(str(key)) == key


def test_the_examples_of_the_documentation() -> None:
    key = TrainingKey.parse("rkd-s0")
    assert (key.recipe.name, str(key.teacher), key.epochs, key.seed, key.repeat) == (
        "rkd",
        "wide_resnet50_2",
        200,
        0,
        0,
    )
    assert not key.short_schedule
    key = TrainingKey.parse("rkd-mkd-es@resnet18.4c740094~40e-s1r3")
    assert (key.recipe.name, str(key.teacher), key.epochs) == ("rkd-mkd-es", "resnet18.4c740094", 40)
    assert (key.seed, key.repeat, key.short_schedule) == (1, 3, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rkd", "not a training key"),
        ("rkd-s-1", "not a training key"),
        ("rkd-s01", "not a training key"),
        ("rkd~0e-s0", "not a training key"),
        ("rkd-s0 ", "not a training key"),
        ("../rkd-s0", "not a training key"),
        ("nope-s0", "unknown recipe 'nope'; known: anogan"),
        ("rkd@vgg16-s0", "not vgg16"),
        ("rkd@vgg19-s0", "unknown architecture"),
        ("rkd@resnet18.imagenet-s0", "not a training key"),
        ("rkd@resnet18.imagenet22k-s0", "imagenet1k_v1, random"),
        ("rkd@resnet18.embedded-s0", "is embedded, without an architecture"),
        ("rkd@embedded.random-s0", "unknown architecture"),
        ("rkd~200e-s0", "its one key is rkd-s0"),
        ("rkd@wide_resnet50_2-s0", "its one key is rkd-s0"),
        ("rkd@resnet18.imagenet1k_v1-s0", "its one key is rkd@resnet18-s0"),
        ("rkd-s2r2", "its one key is rkd-s2"),
    ],
)
def test_what_is_not_a_key_is_refused_with_the_reason(text: str, says: str) -> None:
    if text == "rkd@resnet18.imagenet-s0":
        says = "imagenet1k_v1, random"
    with pytest.raises(BadKey, match=says):
        TrainingKey.parse(text)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_a_bad_key(text: str) -> None:
    with contextlib.suppress(BadKey):
        assert str(TrainingKey.parse(text)) == text


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(RkdError):
        TrainingKey.compose("rkd", seed=-1)
    with pytest.raises(RkdError):
        TrainingKey.compose("rkd", seed=0, epochs=0)
