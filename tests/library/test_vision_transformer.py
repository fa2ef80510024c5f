"""Vision transformers as teachers: a tiny one with random weights, against timm, Pillow, numpy and scikit-learn."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from resources.carried_code import carried_files, requirements
from resources.mlflow_mirror import _SCORER
from rkd_pipeline.detectors import Detector, system_of
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.detectors.patch_features import PatchDetector, PatchFeatures, mean_of_farthest
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import BadKey, RkdError, TeacherError
from rkd_pipeline.models.architectures import NETWORKS, TRANSFORMERS, Transformer, computed_imports
from rkd_pipeline.models.backbone import backbone
from rkd_pipeline.models.teacher_files import TeacherName, TeacherRegistry
from rkd_pipeline.models.vision_transformer import VisionTransformer, positions_at, whole_network
from rkd_pipeline.models.weights import TeacherWeights, in_timms_names, load_weights, register_weights
from rkd_pipeline.recipes.named_recipes import RECIPES
from rkd_pipeline.recipes.patch_recipes import PatchCore, PatchRecipe
from rkd_pipeline.recipes.recipe import Recipe
from rkd_pipeline.recipes.training_key import TrainingKey
from tests.conftest import need

SIDE, WIDTH, DEPTH = 84, 24, 3  # of images, which are 6 by 6 patches; the weights' grid is 4 by 4
TINY = Transformer("tiny_vit", "vit_small_patch14_dinov2", "none", WIDTH, DEPTH, heads=2, grid=4)
WITH_REGISTERS = replace(TINY, name="tiny_vit_reg", timm="vit_small_patch14_reg4_dinov2", registers=2)
BOTH = (TINY.name, WITH_REGISTERS.name)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def tiny_ones_exist() -> Iterator[None]:
    need(find_spec("timm"), "timm is not installed; it is in the extra dev")
    with pytest.MonkeyPatch.context() as patch:
        for arch in (TINY, WITH_REGISTERS):
            patch.setitem(NETWORKS, arch.name, arch)
        yield


@pytest.fixture(scope="module")
def weights() -> Callable[[str], TeacherWeights]:
    """Random ones whose blocks and tokens count: timm draws them so small that all blocks would say the same."""

    def make(name: str) -> TeacherWeights:
        drawn = load_weights(TeacherRegistry(Path("none")), TeacherName(name, "random"))
        generator = torch.Generator().manual_seed(7)
        state = {
            k: torch.randn(v.shape, generator=generator) * (0.02 if "patch" in k else 0.3) if v.ndim > 1 else v
            for k, v in drawn.state.items()
        }
        state |= {k: torch.full_like(v, 0.5) for k, v in state.items() if k.endswith("gamma")}
        return replace(drawn, state=state)

    return make


@pytest.fixture(scope="module")
def teacher(weights: Callable[[str], TeacherWeights]) -> VisionTransformer:
    return VisionTransformer(weights(TINY.name))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Ten smooth random images, uint8 (10, 84, 84, 3)."""
    coarse = torch.rand(10, 3, 9, 9, generator=torch.Generator().manual_seed(3))
    return (F.interpolate(coarse, size=SIDE, mode="bilinear") * 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def trained(
    weights: Callable[[str], TeacherWeights], pictures: np.ndarray, cpu: Compute
) -> Callable[[Recipe], tuple[Detector, dict[str, Tensor], dict[str, str]]]:
    def make(recipe: Recipe) -> tuple[Detector, dict[str, Tensor], dict[str, str]]:
        system, given = system_of(recipe), weights(TINY.name)
        network = system.teacher(given, recipe)
        found = fit(recipe, network, pictures[:7], None, epochs=None, seed=0, compute=cpu, checkpoint=Path("none"),
                    identity="a test")  # fmt: skip
        return system.detector(recipe, network, found.state, 0.0, CPU), found.state, found.notes

    return make


def of_tiny(name: str, **changes: object) -> PatchRecipe:
    changed = replace(RECIPES[name], side=SIDE, **changes)
    assert isinstance(changed, PatchRecipe)
    return changed


def described(recipe: PatchRecipe, given: TeacherWeights, pictures: np.ndarray) -> np.ndarray:
    """Patches as rows."""
    with torch.no_grad():
        return PatchFeatures(backbone(given, recipe.blocks), recipe)(pictures, CPU).flatten(0, 2).double().numpy()


# Of another grid, without registers, DINOv2's own positions are not timm's.
@pytest.mark.parametrize(("name", "side"), [(TINY.name, 56), (WITH_REGISTERS.name, 56), (WITH_REGISTERS.name, 84)])
def test_features_are_timms(
    name: str, side: int, weights: Callable[[str], TeacherWeights], pictures: np.ndarray
) -> None:
    made, whole = VisionTransformer(weights(name), (1, 2, 3)), whole_network(NETWORKS[name]).eval()
    whole.load_state_dict(weights(name).state)
    given = torch.from_numpy(pictures[:2, :side, :side].copy())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        x = (given.permute(0, 3, 1, 2) / 255 - mean) / std
        last, blocks = whole.forward_intermediates(x)
    found = made(given)
    assert [f.shape for f in found] == [(2, WIDTH, side // 14, side // 14)] * 3
    for ours, timms in zip(found[:2], blocks[:2], strict=True):
        torch.testing.assert_close(ours, timms, rtol=1e-4, atol=1e-5)
    own_output = last[:, whole.num_prefix_tokens :].transpose(1, 2).reshape(found[2].shape)
    torch.testing.assert_close(found[2], own_output, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[2], blocks[2], rtol=0.1)  # the last goes through the norm


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys's kernel with a = -3/4."""
    x, a = np.abs(x), -0.75
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    return np.where(x <= 1, near, np.where(x < 2, a * (((x - 5) * x + 8) * x - 4), 0))


@pytest.mark.parametrize("size", [3, 6])
def test_positions_without_registers_are_bicubic_on_a_grid_larger_by_a_tenth(size: int) -> None:
    places = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    at = (np.arange(size) + 0.5) * 4 / (size + 0.1) - 0.5
    line = np.zeros((size, 4))
    for i in range(size):
        for neighbour in range(int(np.floor(at[i])) - 1, int(np.floor(at[i])) + 3):
            line[i, np.clip(neighbour, 0, 3)] += cubic(np.array(at[i] - neighbour))
    expected = np.einsum("ia,jb,cab->ijc", line, line, places[0].numpy()).reshape(1, size * size, 5)
    np.testing.assert_allclose(positions_at(places, (size, size), registers=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 6])
def test_positions_with_registers_are_antialiased(size: int) -> None:
    places = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    found = positions_at(places, (size, size), registers=True).numpy().reshape(size, size, 5)
    for channel in range(5):
        resized = Image.fromarray(places[0, channel].numpy()).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[..., channel], np.asarray(resized), rtol=1e-4, atol=1e-5)
    same = positions_at(places, (4, 4), registers=True)
    assert torch.equal(same, positions_at(places, (4, 4), registers=False))
    assert torch.equal(same[0, 4 * 2 + 1], places[0, :, 2, 1])


def test_our_sizes_are_those_of_timms_names() -> None:
    import timm

    for arch in TRANSFORMERS.values():
        with torch.device("meta"):
            ours = whole_network(arch)
            timms = timm.create_model(arch.timm, pretrained=False, num_classes=0)
        assert str(ours.blocks[0]) == str(timms.blocks[0])
        shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (ours, timms)]
        assert shapes[0] == shapes[1]
        tokens = arch.grid**2 + (0 if arch.registers else 1)
        assert shapes[0]["pos_embed"] == (1, tokens, arch.width)
        assert (len(ours.blocks), ours.patch_embed.patch_size) == (arch.depth, (arch.patch, arch.patch))


def as_the_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state of timm's in DINOv2's own names: the class token has a position, also where there are registers."""
    theirs = dict(state) | {"mask_token": torch.zeros(1, WIDTH)}
    if "reg_token" in theirs:
        position = torch.full((1, 1, WIDTH), 0.25)
        theirs |= {"register_tokens": theirs.pop("reg_token"), "cls_token": theirs["cls_token"] - position}
        theirs["pos_embed"] = torch.cat([position, theirs["pos_embed"]], 1)
    return theirs


@pytest.mark.parametrize("name", BOTH)
def test_a_file_of_timms_and_one_of_the_authors_are_the_same_teacher(
    name: str, weights: Callable[[str], TeacherWeights], pictures: np.ndarray, tmp_path: Path
) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    registry, state = TeacherRegistry(tmp_path / "teachers.toml"), weights(name).state
    save_file(state, tmp_path / "timms.safetensors")
    torch.save(as_the_authors(state), tmp_path / "theirs.pth")
    timms = checkpoint_filter_fn(as_the_authors(state), whole_network(NETWORKS[name]))
    ours = in_timms_names(as_the_authors(state))
    assert ours.keys() == timms.keys() == state.keys()
    assert all(torch.equal(ours[k], timms[k]) for k in ours)
    given = torch.from_numpy(pictures[:2].copy())
    expected = VisionTransformer(weights(name))(given)
    for file in ("timms.safetensors", "theirs.pth"):
        registered = register_weights(registry, tmp_path / file)  # the architecture is recognised
        assert registered.arch == name
        found = VisionTransformer(load_weights(registry, registered))(given)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_giants_gates_are_renamed() -> None:
    state = {"blocks.0.mlp.w12.weight": torch.zeros(1), "blocks.0.mlp.w3.bias": torch.ones(1)}
    assert in_timms_names(state).keys() == {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias"}


def test_anomaly_dino_is_the_cosine_distance_to_the_nearest_normal_patch(
    trained: Callable[..., tuple[Detector, dict[str, Tensor], dict[str, str]]],
    weights: Callable[[str], TeacherWeights],
    pictures: np.ndarray,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = of_tiny("anomaly-dino", top_share=0.1)  # 3 of 36 patches
    with caplog.at_level(logging.INFO):
        made, state, notes = trained(recipe)
    assert "252 of 252 patches of 24 numbers each: 0.00 GiB of memory" in caplog.text
    assert notes["bank"] == "252 of 252 patches"
    assert notes.keys() == {"bank", "timm"}
    given = weights(TINY.name)
    normal, test = (described(recipe, given, part) for part in (pictures[:7], pictures[7:]))
    np.testing.assert_allclose(state["bank"], normal / np.linalg.norm(normal, axis=1, keepdims=True), atol=1e-5)
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(normal)
    expected = nearest.kneighbors(test)[0].reshape(3, 6, 6)
    assert isinstance(made, PatchDetector)
    scores = made.score(pictures[7:])
    found = made.distances(torch.from_numpy(test).float().view(3, 6, 6, WIDTH))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    top = np.sort(expected.reshape(3, -1))[:, -3:].mean(1)
    np.testing.assert_allclose(scores.images["image_score"], top, rtol=1e-3, atol=1e-6)
    enlarged = np.stack([np.asarray(Image.fromarray(m.astype(np.float32)).resize((SIDE, SIDE), 2)) for m in expected])
    assert scores.maps is not None
    np.testing.assert_allclose(scores.maps, [gaussian_filter(m, 4) for m in enlarged], rtol=1e-3, atol=1e-6)


def test_the_mean_of_the_farthest_patches_is_that_of_the_official_code() -> None:
    distances = torch.randperm(2 * 32 * 32, generator=torch.Generator().manual_seed(0)).float().view(2, 32, 32)
    for image, found in zip(distances, mean_of_farthest(distances, 0.01), strict=True):
        assert float(found) == pytest.approx(
            np.mean(sorted(image.flatten().tolist(), reverse=True)[: int(1024 * 0.01)])
        )
    assert mean_of_farthest(distances[:, :3, :3], 0.01).tolist() == distances[:, :3, :3].amax((1, 2)).tolist()


def test_subspace_dino_is_the_squared_residual_of_averaged_blocks(
    trained: Callable[..., tuple[Detector, dict[str, Tensor], dict[str, str]]],
    weights: Callable[[str], TeacherWeights],
    pictures: np.ndarray,
) -> None:
    recipe = of_tiny("subspace-dino-small", blocks=(1, 2), explained=0.9)
    one, two = (f.double() for f in VisionTransformer(weights(TINY.name), (1, 2))(torch.from_numpy(pictures.copy())))
    rows = ((one + two) / 2).permute(0, 2, 3, 1).reshape(10, 36, WIDTH).numpy()
    np.testing.assert_allclose(described(recipe, weights(TINY.name), pictures), rows.reshape(-1, WIDTH), rtol=1e-5)
    pca = PCA(0.9, svd_solver="full").fit(rows[:7].reshape(-1, WIDTH))
    test = rows[7:].reshape(-1, WIDTH)
    left = np.square(test - pca.inverse_transform(pca.transform(test))).sum(1).reshape(3, 36)
    made, state, notes = trained(recipe)
    assert state["directions"].shape == pca.components_.shape
    assert notes["subspace"] == f"{pca.n_components_} of {WIDTH} dimensions"
    scores = made.score(pictures[7:])
    np.testing.assert_allclose(scores.images["image_score"], left.max(1), rtol=1e-3)  # 1% of 36 patches: one


@pytest.mark.parametrize("name", [
    "anomaly-dino", "subspace-dino-small", "padim", "patchcore", "subspace", "one-gaussian", "feature-dictionary",
    "deep-ocsvm",
])  # fmt: skip
def test_every_system_that_compares_features_takes_a_transformer(
    name: str, trained: Callable[..., tuple[Detector, dict[str, Tensor], dict[str, str]]], pictures: np.ndarray
) -> None:
    recipe = replace(RECIPES[name], side=SIDE)
    if name == "subspace-dino-small":
        recipe = replace(recipe, blocks=(1, 2))
    made, state, notes = trained(recipe)
    _, again, _ = trained(recipe)
    assert all(torch.equal(v, again[k]) for k, v in state.items())
    assert "timm" in notes
    whole, parts = made.score(pictures), [made.score(pictures[i : i + 3], batch_size=2) for i in (0, 3, 6, 9)]
    assert set(whole.images) == set(recipe.score_rules)
    for rule, values in whole.images.items():
        np.testing.assert_allclose(values, np.concatenate([p.images[rule] for p in parts]), rtol=1e-3, atol=1e-5)
    if whole.maps is not None:
        assert (whole.maps.shape, whole.maps.dtype) == (pictures.shape[:3], np.float32)


def test_scales_are_thirds_of_the_depth(teacher: VisionTransformer) -> None:
    assert [t.stages for t in TRANSFORMERS.values()][::3] == [(4, 8, 12), (4, 8, 12), (13, 26, 40)]
    assert teacher.given == (1, 2, 3)
    assert (teacher.channels, teacher.strides) == ((WIDTH,) * 3, (14,) * 3)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_what_cannot_be_is_an_error_that_says_the_fix(
    teacher: VisionTransformer, weights: Callable[[str], TeacherWeights]
) -> None:
    with pytest.raises(RkdError, match=r"tiny_vit needs images whose side is a multiple of 14, not 64 pixels"):
        teacher(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(RkdError, match=r"tiny_vit has blocks 1 to 3, not 29"):
        backbone(weights(TINY.name), RECIPES["subspace-dino"].blocks[-1:])
    resnet = load_weights(TeacherRegistry(Path("none")), TeacherName("resnet18", "random"))
    with pytest.raises(RkdError, match=r"blocks 7, 8, 9 are a vision transformer's, and resnet18 is none"):
        system_of(RECIPES["subspace-dino-small"]).teacher(resnet, RECIPES["subspace-dino-small"])
    with pytest.raises(RkdError, match=r"averages scales, and those of resnet18 differ in length"):
        PatchFeatures(backbone(resnet), replace(RECIPES["padim"], joined="mean"))


@pytest.mark.parametrize(("key", "said"), [
    ("rkd@dinov2_vit_s14.0a1b2c3d-s0", "Reverse KD .rkd. takes resnet18, .* as a teacher, not dinov2_vit_s14"),
    ("subspace-dino@resnet18-s0", "takes dinov2_vit_s14, .* as a teacher, not resnet18"),
    ("mkd@dinov2_vit_s14.0a1b2c3d-s0", "not dinov2_vit_s14"),
    ("patchcore-brief@dinov2_vit_s14.0a1b2c3d-s0", "patches of 14 pixels, .* have 128, .* 224 or 448 pixels"),
    ("padim@dinov2_vit_s14.imagenet1k_v1-s0", "weights of dinov2_vit_s14 are random, or 8 hex digits of a file"),
])  # fmt: skip
def test_a_key_of_what_cannot_be_trained_is_refused(key: str, said: str) -> None:
    with pytest.raises(BadKey, match=said):
        TrainingKey.parse(key)


def test_keys_with_transformers() -> None:
    assert str(TrainingKey.parse("anomaly-dino-s0").teacher) == "dinov2_vit_s14"
    assert TrainingKey.parse("patchcore@dinov2_vit_b14_reg.0a1b2c3d-s0").teacher.from_file
    assert str(TrainingKey.parse("anomaly-dino+shots=4@dinov2_vit_b14.0a1b2c3d-s1").training).startswith(
        "anomaly-dino+"
    )


def test_missing_weights_say_which_file_fits(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=(
        r"never downloaded; run `rkd run \.\.\. --teacher dinov2_vit_s14 --weights FILE` once, where FILE is timm's "
        r"vit_small_patch14_dinov2\.lvd142m, or the authors' dinov2_vits14_pretrain\.pth"
    )):  # fmt: skip
        load_weights(TeacherRegistry(tmp_path / "teachers.toml"), TeacherName.parse("dinov2_vit_s14"))


def test_a_file_for_another_grid_is_refused(weights: Callable[[str], TeacherWeights], tmp_path: Path) -> None:
    state = dict(weights(TINY.name).state)
    state["pos_embed"] = torch.zeros(1, 10, WIDTH)
    save_file(state, tmp_path / "w.safetensors")
    said = r"is not tiny_vit for images of 56 pixels \(pos_embed is \(1, 10, 24\), not \(1, 17, 24\)\)"
    with pytest.raises(TeacherError, match=said):
        register_weights(TeacherRegistry(tmp_path / "teachers.toml"), tmp_path / "w.safetensors", TINY.name)
    with pytest.raises(TeacherError, match=r"fits none of .*dinov2_vit_s14"):
        register_weights(TeacherRegistry(tmp_path / "teachers.toml"), tmp_path / "w.safetensors")


def test_without_timm_it_is_named_and_other_teachers_work(
    weights: Callable[[str], TeacherWeights], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry = TeacherRegistry(tmp_path / "teachers.toml")
    save_file(weights(TINY.name).state, tmp_path / "vit.safetensors")
    resnet = load_weights(registry, TeacherName("resnet18", "random")).state
    save_file(resnet, tmp_path / "resnet.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert register_weights(registry, tmp_path / "resnet.safetensors").arch == "resnet18"
    with pytest.raises(RkdError, match=r"is a network of timm, which cannot be imported .*pip install .*\[timm\]"):
        register_weights(registry, tmp_path / "vit.safetensors")


def test_a_logged_model_needs_timm_only_with_such_a_teacher() -> None:
    system = "rkd_pipeline.detectors.patchcore"
    named = {
        teacher: requirements(carried_files(_SCORER, [system, *computed_imports(teacher)]))
        for teacher in ("none", "resnet18", "dinov2_vit_s14")
    }
    assert named["none"] == named["resnet18"]
    assert [n.partition("==")[0] for n in sorted({*named["dinov2_vit_s14"]} - {*named["none"]})] == ["timm"]


def test_settings_of_trainings_without_transformers_are_as_they_were() -> None:
    new = {"blocks", "joined", "top_share", "distance", "squared"}
    for name in ("padim", "patchcore", "subspace", "one-gaussian", "feature-dictionary"):
        assert not new & RECIPES[name].settings().keys()
    own = RECIPES["anomaly-dino"].settings()
    assert (own["distance"], own["top_share"], own["patches_at_most"]) == ("cosine", 0.01, None)
    assert RECIPES["subspace-dino"].settings()["blocks"] == [23, 24, 25, 26, 27, 28, 29]


def test_a_score_of_the_farthest_patches_is_one_of_the_recipes() -> None:
    for recipe in (r for r in RECIPES.values() if isinstance(r, PatchRecipe)):
        assert ("image_score" in recipe.score_rules) == (recipe.top_share > 0 or isinstance(recipe, PatchCore))
