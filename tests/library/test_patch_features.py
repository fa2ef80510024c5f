"""Systems that compare a frozen network's features: each against another library, or its formula written out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.decomposition import PCA
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import Tensor
from torch.nn import functional as F

from rkd_pipeline.detectors import system_of
from rkd_pipeline.detectors.coreset import farthest_first
from rkd_pipeline.detectors.deep_one_class import DeepOneClassDetector, DeepOneClassTask
from rkd_pipeline.detectors.feature_dictionary import FeatureDictionaryDetector
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.one_gaussian import OneGaussianDetector
from rkd_pipeline.detectors.padim import PaDiMDetector, drawn_features, moments
from rkd_pipeline.detectors.patch_features import PatchFeatures, require_memory
from rkd_pipeline.detectors.patchcore import PatchCoreDetector, image_score, nearest_of
from rkd_pipeline.detectors.scatter import ScatterOfPatches
from rkd_pipeline.detectors.subspace import SubspaceDetector
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import RkdError, StoreError
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import TeacherWeights, load_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.patch_recipes import PatchCore, PatchRecipe
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.training.loop import TrainedStudent
from rkd_pipeline.training.task import TaskInputs

PATCHES = ("padim-brief", "patchcore-brief", "subspace-brief", "one-gaussian-brief", "feature-dictionary")
ALL = (*PATCHES, "deep-ocsvm", "deep-isolation-forest", "deep-lof")
Fit = Callable[..., TrainedStudent]


@pytest.fixture(scope="module")
def weights() -> TeacherWeights:
    return load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))


@pytest.fixture(scope="module")
def teacher(weights: TeacherWeights) -> Teacher:
    return Teacher(weights)


@pytest.fixture(scope="module")
def fitted(teacher: Teacher, images: np.ndarray, cpu: Compute) -> Fit:
    def call(chosen: Recipe, seed: int = 0, given: np.ndarray = images[:9]) -> TrainedStudent:
        return fit(chosen, teacher, given, None, epochs=None, seed=seed, compute=cpu, checkpoint=Path("none"),
                   identity="a test")  # fmt: skip

    return call


@pytest.fixture(scope="module")
def detector(weights: TeacherWeights, fitted: Fit) -> Callable[..., object]:
    def make(chosen: Recipe, state: dict[str, Tensor] | None = None) -> object:
        system = system_of(chosen)
        kept = fitted(chosen).state if state is None else state
        return system.detector(chosen, system.teacher(weights, chosen), kept, 0.0, torch.device("cpu"))

    return make


def described(recipe: PatchRecipe, teacher: Teacher, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return PatchFeatures(teacher, recipe)(images, torch.device("cpu")).numpy()


def drawn(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def test_patches_are_described_by_the_features_of_several_scales_at_each_position(
    teacher: Teacher, images: np.ndarray
) -> None:
    recipe = RECIPES["patchcore-brief"]
    assert isinstance(recipe, PatchCore)
    found = described(recipe, teacher, images[:2])
    assert found.shape == (2, 8, 8, 128 + 256)
    _, fine, coarse = teacher(torch.from_numpy(images[:2].copy()))
    # At an inner position: the mean of three by three; the border's zeros count as in the official code.
    assert found[1, 3, 4, 7] == pytest.approx(float(fine[1, 7, 2:5, 3:6].mean()), rel=1e-5)
    assert found[1, 0, 0, 7] == pytest.approx(float(fine[1, 7, :2, :2].sum() / 9), rel=1e-5)
    pooled = F.avg_pool2d(coarse, 3, 1, 1)[1, 5]  # four by four, brought to eight by eight: 3/4 and 1/4 of neighbours
    expected = 0.75 * (0.75 * pooled[1, 1] + 0.25 * pooled[1, 2]) + 0.25 * (0.75 * pooled[2, 1] + 0.25 * pooled[2, 2])
    assert found[1, 3, 3, 128 + 5] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_system_that_learns_in_one_pass_is_reproducible_and_scores_each_image_by_itself(
    name: str, fitted: Fit, detector: Callable[..., object], images: np.ndarray
) -> None:
    recipe = RECIPES[name]
    first, again = fitted(recipe), fitted(recipe)
    assert first.history == []
    assert first.best_epoch == 0
    assert first.state.keys() == again.state.keys()
    assert all(torch.equal(v, again.state[k]) for k, v in first.state.items())
    made = detector(recipe, first.state)
    whole, one_by_one = made.score(images), [made.score(images[i : i + 1]) for i in range(len(images))]
    assert set(whole.images) == set(recipe.score_rules)
    for rule, values in whole.images.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, np.concatenate([s.images[rule] for s in one_by_one]), rtol=2e-4, atol=1e-5)
    assert (whole.maps is None) == (not recipe.localises)
    if whole.maps is not None:
        assert whole.maps.shape == images.shape[:3]
        assert whole.maps.dtype == np.float32
        np.testing.assert_allclose(whole.images["map_max"], whole.maps.max(axis=(1, 2)), rtol=1e-6)


def test_moments_merged_batch_by_batch_are_those_of_all_images() -> None:
    x = torch.from_numpy(drawn(5 * 11 * 4, 1).reshape(5, 11, 4)) + 100  # far from zero, where sums of squares lose
    count, mean, scatter = moments(iter(x.split([4, 1, 6], dim=1)))
    assert count == 11
    for position in range(5):
        rows = x[position].double().numpy()
        np.testing.assert_allclose(mean[position], rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(scatter[position] / 10, np.cov(rows.T), rtol=1e-4, atol=1e-5)


def test_padim_is_the_mahalanobis_distance_at_every_position(
    teacher: Teacher, detector: Callable[..., object], images: np.ndarray
) -> None:
    recipe = RECIPES["padim-brief"]
    made = detector(recipe)
    assert isinstance(made, PaDiMDetector)
    chosen = drawn_features(64 + 128 + 256, 100, 0)
    rows = described(recipe, teacher, images)[..., chosen.numpy()].astype(np.float64)
    found = made.distances(torch.from_numpy(described(recipe, teacher, images[9:])))
    for i, row, column in ((0, 0, 0), (1, 7, 3), (2, 15, 15)):
        normal = rows[:9, row, column]
        covariance = np.cov(normal.T) + 0.01 * np.eye(100)
        expected = mahalanobis(rows[9 + i, row, column], normal.mean(0), np.linalg.inv(covariance))
        assert float(found[i, row, column]) == pytest.approx(expected, rel=1e-3)


def test_features_are_drawn_by_the_seed_and_one_image_is_enough(fitted: Fit, images: np.ndarray) -> None:
    assert len(drawn_features(448, 100, 3)) == 100
    assert not torch.equal(drawn_features(448, 100, 3), drawn_features(448, 100, 4))
    assert drawn_features(64, 100, 0).tolist() == list(range(64))
    alone = fitted(RECIPES["padim-brief"], given=images[:1]).state["whitening"]
    # One image has no variance: what is left is the ridge, .01, whose whitening is ten.
    torch.testing.assert_close(alone, 10 * torch.eye(100).expand_as(alone))


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_the_coreset_is_the_greedy_one(spread: float) -> None:
    rows = drawn(6000, 3) * np.where(np.arange(6000) < 5000, spread, 1)[:, None].astype(np.float32)
    chosen, nearest = [17], cdist(rows, rows[17:18].astype(np.float64))[:, 0]
    while len(chosen) < 400:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, cdist(rows, rows[chosen[-1:]])[:, 0])
    assert farthest_first(torch.from_numpy(rows), 400, 17).tolist() == chosen


def test_a_coreset_of_copies_names_each_row_once() -> None:
    rows = torch.ones(50, 4)
    assert sorted(farthest_first(rows, 50, 3).tolist()) == list(range(50))
    with pytest.raises(ValueError, match="51 of 50 rows"):
        farthest_first(rows, 51, 0)


def test_nearest_patches_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rkd_pipeline.detectors.patchcore._BANK_AT_ONCE", 70)
    monkeypatch.setattr("rkd_pipeline.detectors.patchcore._PATCHES_AT_ONCE", 33)
    bank, rows = drawn(200, 12), drawn(90, 12, seed=1)
    distances, indices = NearestNeighbors(n_neighbors=1).fit(bank).kneighbors(rows)
    found, which = nearest_of(torch.from_numpy(rows), torch.from_numpy(bank))
    np.testing.assert_allclose(found, distances[:, 0], rtol=1e-5)
    assert which.tolist() == indices[:, 0].tolist()


def test_patchcores_image_score_by_its_formula() -> None:
    bank, patches = drawn(30, 5), drawn(2 * 6, 5, seed=1).reshape(2, 2, 3, 5)
    nearest = cdist(patches.reshape(-1, 5), bank).min(1).reshape(2, 2, 3)
    expected = []
    for image in range(2):
        patch = patches[image].reshape(-1, 5)[nearest[image].argmax()]
        entry = bank[cdist(patch[None], bank).argmin()]
        around = bank[np.argsort(cdist(entry[None], bank)[0])[:4]]  # the entry itself among them
        weight = 1 - np.exp(np.linalg.norm(patch - entry)) / np.exp(np.linalg.norm(patch - around, axis=1)).sum()
        expected.append(weight * nearest[image].max())
    given = torch.from_numpy(patches), torch.from_numpy(nearest).float(), torch.from_numpy(bank)
    np.testing.assert_allclose(image_score(*given, 4), expected, rtol=1e-5)
    np.testing.assert_allclose(image_score(*given, 31), nearest.max(axis=(1, 2)), rtol=1e-6)  # no 31 in the bank


def test_patchcore_keeps_its_share_and_normal_patches_are_near(
    fitted: Fit, detector: Callable[..., object], images: np.ndarray
) -> None:
    recipe = RECIPES["patchcore-brief"]
    state = fitted(recipe).state
    assert state["bank"].shape == (round(0.1 * 9 * 64), 384)
    few = fitted(replace(recipe, patches_at_most=100))
    assert few.state["bank"].shape == (10, 384)
    assert few.notes == {"bank": "10 of 100 patches"}
    everything = detector(replace(recipe, share=1.0))
    assert isinstance(everything, PatchCoreDetector)
    scores = everything.score(images)
    assert scores.images["map_max"][:9].max() < 1e-2 < scores.images["map_max"][9:].min()


def test_patches_are_drawn_evenly_without_keeping_all(teacher: Teacher, images: np.ndarray, cpu: Compute) -> None:
    recipe = RECIPES["patchcore-brief"]
    assert isinstance(recipe, PatchCore)
    features, given = PatchFeatures(teacher, recipe), TaskInputs(images, None, 1, cpu)
    with torch.no_grad():
        every, some = features.drawn(given, 10**6), features.drawn(given, 50)
    np.testing.assert_allclose(every.view(12, 8, 8, -1), described(recipe, teacher, images), rtol=1e-4, atol=1e-5)
    at = np.sort(np.random.default_rng(1).permutation(12 * 64)[:50])
    torch.testing.assert_close(some, every[at])


def test_covariances_are_numpys() -> None:
    rows = drawn(300, 6) + 1000
    found = ScatterOfPatches.of(torch.from_numpy(p.reshape(-1, 2, 6)) for p in np.split(rows, [100, 140]))
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64).T), rtol=1e-9)


def test_subspace_and_gaussian_and_dictionary_are_those_of_scikit_learn_and_numpy(
    teacher: Teacher, detector: Callable[..., object], fitted: Fit, images: np.ndarray
) -> None:
    recipe = RECIPES["subspace-brief"]
    normal, test = described(recipe, teacher, images[:9]), described(recipe, teacher, images[9:])
    made = detector(recipe)
    assert isinstance(made, SubspaceDetector)
    pca = PCA(0.99, svd_solver="full").fit(normal.reshape(-1, 384).astype(np.float64))
    rows = test.reshape(-1, 384).astype(np.float64)
    left = np.linalg.norm(rows - pca.inverse_transform(pca.transform(rows)), axis=1)
    np.testing.assert_allclose(made.distances(torch.from_numpy(test)).flatten(), left, rtol=1e-3)

    recipe = RECIPES["one-gaussian-brief"]
    normal, test = described(recipe, teacher, images[:9]), described(recipe, teacher, images[9:])
    gaussian = detector(recipe)
    assert isinstance(gaussian, OneGaussianDetector)
    rows = normal.reshape(-1, 128).astype(np.float64)
    covariance = np.cov(rows.T)
    covariance += 0.001 * np.trace(covariance) / 128 * np.eye(128)
    expected = cdist(test.reshape(-1, 128), rows.mean(0)[None], "mahalanobis", VI=np.linalg.inv(covariance))
    np.testing.assert_allclose(gaussian.distances(torch.from_numpy(test)).flatten(), expected[:, 0], rtol=1e-3)

    recipe = RECIPES["feature-dictionary"]
    state = fitted(recipe).state
    dictionary = detector(recipe, state)
    assert isinstance(dictionary, FeatureDictionaryDetector)
    test = described(recipe, teacher, images[9:])
    mean, directions, centres = (state[k].numpy().astype(np.float64) for k in ("mean", "directions", "centres"))
    assert len(centres) == 10
    each = np.sort(cdist((test.reshape(-1, 256) - mean) @ directions.T, centres), axis=1)
    np.testing.assert_allclose(dictionary.distances(torch.from_numpy(test)).flatten(), each[:, :5].mean(1), rtol=1e-4)


def test_one_class_classifiers_are_scikit_learns(
    teacher: Teacher, detector: Callable[..., object], images: np.ndarray
) -> None:
    features = teacher(torch.from_numpy(images.copy()))[-1].mean((2, 3)).numpy().astype(np.float64)
    deviation = features[:9].std(0)
    standardised = (features - features[:9].mean(0)) / np.where(deviation == 0, 1, deviation)  # some are always 0
    svm, lof = OneClassSVM().fit(standardised[:9]), LocalOutlierFactor(8, novelty=True).fit(standardised[:9])
    for name, classifier in (("deep-ocsvm", svm), ("deep-lof", lof)):
        made = detector(RECIPES[name])
        assert isinstance(made, DeepOneClassDetector)
        found = made.score(images).images["image_score"]
        # The SVM is solved to a thousandth, in single precision here.
        np.testing.assert_allclose(found, -classifier.decision_function(standardised), rtol=1e-3, atol=2e-3)


def test_what_cannot_be_is_an_error_that_says_the_fix(teacher: Teacher) -> None:
    with pytest.raises(RkdError, match=r"compares scale 4, and resnet18 has 3; name another teacher"):
        PatchFeatures(teacher, replace(RECIPES["padim"], scales=(3,)))
    with pytest.raises(RkdError, match=r"a bank take 931322574\.6 GiB of memory, .*shots=100"):
        require_memory(10**18, "a bank")


def test_what_is_no_number_is_not_kept(monkeypatch: pytest.MonkeyPatch, fitted: Fit) -> None:
    nothing = {"features": torch.tensor([float("nan")])}
    monkeypatch.setattr(DeepOneClassTask, "fit", lambda self: nothing)
    with pytest.raises(StoreError, match=r"a test: in what was learnt there is NaN or infinity in features"):
        fitted(RECIPES["deep-lof"])
