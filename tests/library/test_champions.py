import json
import shutil

import pandas as pd
import pytest

from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.operations import champions, gate
from rkd_pipeline.operations.champions import NoChampion
from rkd_pipeline.stages.benchmark import build_benchmark, read_benchmark
from rkd_pipeline.store import folder_place
from rkd_pipeline.store.result_store import Ref, Store
from rkd_pipeline.store.stage_versions import METRICS, TRAINED_MODEL
from tests.library.arena import TARGET, Finish

ES, MKD, LAST = "rkd-es-cal@resnet18.random~1e", "rkd-cal@resnet18.random~1e", "rkd@resnet18.random~1e"


def train(finish: Finish, name: str, strength: float, seeds: int = 3) -> None:
    for seed in range(seeds):
        finish(f"{name}-s{seed}", strength, luck=len(name))


def test_nobody_reigns_before_something_honest_is_trained(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    with pytest.raises(NoChampion, match=r"rkd champion challenge arena"):
        champions.require_champion(store, TARGET)
    train(finish, LAST, 3.0, seeds=1)
    with pytest.raises(NoChampion, match="no honest threshold"):
        champions.challenge(store, TARGET)


def test_the_alias_moves_only_beyond_noise(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    train(finish, ES, 1.0)
    train(finish, LAST, 3.0)  # far better, but no threshold: never considered
    first = champions.challenge(store, TARGET)
    assert (first.moved, first.champion.training, first.champion.how) == (True, f"{ES}-s0", "first")

    train(finish, MKD, 1.05)  # hardly better
    second = champions.challenge(store, TARGET)
    assert (second.moved, second.champion) == (False, first.champion)
    assert any("not better beyond noise" in line for line in second.lines)
    assert any(line.startswith(f"{LAST}: cannot be champion") for line in second.lines)

    train(finish, MKD, 3.0)  # trained again, to be much better
    third = champions.challenge(store, TARGET)
    assert third.moved
    assert (third.champion.training, third.champion.number, third.champion.how) == (f"{MKD}-s0", 2, "gate")
    assert "better beyond noise" in third.champion.why
    assert champions.current_champion(store, TARGET) == third.champion
    assert [r.number for r in champions.champions_of(store, TARGET)] == [1, 2]
    assert [entry["number"] for entry in champions.looks(store, TARGET)] == [1, 2]

    worse = champions.challenge(store, TARGET, [f"{ES}-s1"])
    assert not worse.moved


def test_the_same_results_again_are_no_new_look(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    train(finish, ES, 1.0)
    train(finish, MKD, 1.0)
    champions.challenge(store, TARGET)
    looks = [champions.challenge(store, TARGET).look for _ in range(3)]
    assert [look.number for look in looks if look] == [1, 1, 1]
    assert len(champions.looks(store, TARGET)) == 1
    champions_now = champions.require_champion(store, TARGET)
    other = MKD if champions_now.training.startswith(ES) else ES
    finish(f"{other}-s3", 1.0)
    finish(f"{gate.configuration(champions_now.training)}-s3", 1.0)
    again = champions.challenge(store, TARGET).look
    assert again is not None
    assert (again.number, again.level) == (2, gate.ERROR / 6)


def test_one_repeat_supports_no_claim(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    train(finish, ES, 0.5, seeds=1)
    champions.challenge(store, TARGET)
    train(finish, MKD, 4.0, seeds=1)
    outcome = champions.challenge(store, TARGET)
    assert not outcome.moved
    assert "train both on two seeds or more" in outcome.lines[-1]
    assert champions.looks(store, TARGET) == []  # nothing could be found, nothing is spent


def test_seeds_of_the_champion_s_configuration_do_not_challenge_it(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    train(finish, ES, 1.0)
    champions.challenge(store, TARGET)
    with pytest.raises(gate.NotEligible, match="the best of them is the luckiest"):
        champions.challenge(store, TARGET, [f"{ES}-s1"])
    forced = champions.force(store, TARGET, f"{ES}-s1", "the line was rebuilt")
    assert (forced.how, forced.why, forced.number) == ("forced", "the line was rebuilt", 2)


def test_of_two_trainings_of_one_configuration_none_wins_silently(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    champions.challenge(store, TARGET)
    pair = [finish(f"{MKD}-{key}", 1.0).provenance.key[1] for key in ("s0", "s7r0")]  # two seeds on one repeat
    for given in (pair, pair[::-1]):
        with pytest.raises(gate.NotEligible, match="one configuration") as error:
            champions.challenge(store, TARGET, given)
        assert all(key in str(error.value) for key in pair)
    both = champions.challenge(store, TARGET, [pair[1], pair[1]]).look
    assert both is not None
    assert {*pair, f"{ES}-s0"} == both.evidence.keys()  # whichever is named, all of its configuration are compared


def test_after_a_damaged_folder_was_deleted_as_advised_a_champion_can_be_forced(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    first, second = (champions.force(store, TARGET, f"{ES}-s0", why) for why in ("first", "second"))
    (first.folder / "reign.json").write_text("{")
    with pytest.raises(StoreError, match="delete its folder and force a champion"):
        champions.require_champion(store, TARGET)
    shutil.rmtree(first.folder)
    third = champions.force(store, TARGET, f"{ES}-s0", "as advised")
    assert [r.number for r in champions.champions_of(store, TARGET)] == [2, 3]
    assert champions.current_champion(store, TARGET) == third

    # Looks at challengers of a champion that was deleted are none at those of the next one.
    looks = third.folder.parent / "looks.json"
    looks.write_text(json.dumps([{"reign": 3, "evidence": {}, "comparisons": {}, "number": 1}]))
    shutil.rmtree(third.folder)
    assert champions.force(store, TARGET, f"{ES}-s0", "again").number == 4
    assert champions.current_champion(store, TARGET) != second
    looks.write_text("[")
    with pytest.raises(StoreError, match=r"looks\.json is damaged"):
        champions.looks(store, TARGET)


def test_force_needs_a_reason_and_a_threshold(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    finish(f"{LAST}-s0", 1.0)
    with pytest.raises(RkdError, match="say why"):
        champions.force(store, TARGET, f"{ES}-s0", " ")
    with pytest.raises(gate.NotEligible, match="cannot be champion"):
        champions.force(store, TARGET, f"{LAST}-s0", "because")
    assert champions.current_champion(store, TARGET) is None


def test_a_champion_s_number_is_selected_and_in_no_table(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    train(finish, ES, 1.0)
    before = read_benchmark(build_benchmark(store))
    champion = champions.challenge(store, TARGET).champion
    assert champion.selected["protocol"] == "selected"
    pd.testing.assert_frame_equal(read_benchmark(build_benchmark(store)), before)
    assert not before["protocol"].eq("selected").any()


def test_a_champion_outlives_its_training_and_says_so(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    train(finish, ES, 1.0)
    champion = champions.challenge(store, TARGET).champion
    assert champions.standing(store, champion) == "up to date"
    shutil.rmtree(store.folder(Ref(TRAINED_MODEL.name, TARGET, f"{ES}-s0")))
    assert "no longer in the store" in champions.standing(store, champion)
    finish(f"{ES}-s0", 2.0)
    assert "has been trained again since" in champions.standing(store, champion)
    scorer = champions.open_scorer(champions.require_champion(store, TARGET))
    table, maps = scorer.score([champion.folder / champions.EXAMPLE])
    assert (len(table), maps.shape) == (1, (1, 224, 224))


def test_a_training_that_falls_behind_its_champion_is_noticed(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    same = finish(f"{ES}-s0", 2.0)
    assert champions.against_champion(store, same).worse is None  # no champion yet
    champions.challenge(store, TARGET)
    assert champions.against_champion(store, same).difference == 0
    fallen = champions.against_champion(store, finish(f"{ES}-s0", 0.2))
    assert fallen.worse
    assert "against the champion's" in fallen.text
    other = champions.against_champion(store, finish(f"{MKD}-s0", 0.2))
    assert other.worse is None  # another configuration may be worse: no verdict, and the numbers beside it
    assert "of another configuration" in other.text
    assert other.difference is not None
    assert other.difference < 0
    assert "tested on other images" in champions.against_champion(store, finish(f"{ES}-s1", 2.0)).text


def test_a_crash_while_crowning_leaves_the_old_champion(
    arena: tuple[Store, Finish], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    finish(f"{ES}-s1", 1.0)
    champion = champions.force(store, TARGET, f"{ES}-s0", "first")

    def fails(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(folder_place, "publish", fails)
        with pytest.raises(OSError, match="no space"):
            champions.force(store, TARGET, f"{ES}-s1", "second")
    assert champions.current_champion(store, TARGET) == champion
    assert sorted(p.name for p in champion.folder.parent.iterdir()) == ["0001"]
    assert json.loads((champion.folder / "reign.json").read_text())["why"] == "first"
    assert store.require(METRICS, TARGET, f"{ES}-s1")


def test_a_champion_whose_files_are_damaged_does_not_speak(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    champion = champions.force(store, TARGET, f"{ES}-s0", "first")
    student = champion.folder / "student.safetensors"
    content = bytearray(student.read_bytes())
    content[-1] ^= 1  # of the last weight: safetensors reads it without a word
    student.unlink()
    student.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{student} is damaged.*rkd champion force {TARGET} {ES}-s0"):
        champions.open_scorer(champion)
    student.unlink()
    with pytest.raises(StoreError, match=rf"{student} is missing"):
        champions.open_scorer(champion)


def test_a_record_of_before_files_were_hashed_is_read(arena: tuple[Store, Finish]) -> None:
    store, finish = arena
    finish(f"{ES}-s0", 1.0)
    champion = champions.force(store, TARGET, f"{ES}-s0", "first")
    record = json.loads((champion.folder / "reign.json").read_text())
    del record["files"]
    (champion.folder / "reign.json").write_text(json.dumps(record))
    (found,) = champions.champions_of(store, TARGET)
    assert (found.training, found.files) == (champion.training, {})
