"""Every model of anomalib that this project runs, with random weights: trained, saved, read back, scored.

Where anomalib is: `make test-all` makes an environment with the extra for these tests.
"""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from rkd_pipeline.detectors import anomalib_model, system_of
from rkd_pipeline.detectors.anomalib_trainer import seeded
from rkd_pipeline.detectors.fit import fit
from rkd_pipeline.device import Compute
from rkd_pipeline.errors import RkdError, TeacherError, UnknownName
from rkd_pipeline.models.teacher_files import NONE, RANDOM, TeacherName, TeacherRegistry
from rkd_pipeline.models.weights import TeacherWeights, load_weights
from rkd_pipeline.recipes.anomalib_recipes import UNFIT, AnomalibDfkde, AnomalibGanomaly, AnomalibModel, AnomalibTrained
from rkd_pipeline.training.loop import Epoch, TrainedStudent
from tests.conftest import need

pytestmark = pytest.mark.slow
TEXT = ("smoke", "s", "p", "c", "d")
ALONE = {"teacher": NONE, "backbone": "drawn"}  # on a backbone that no teacher here has
SMALL = "vit_small_patch14_reg4_dinov2"  # four times faster than the ViT-B that is the models' own
STEPS = {"epochs": 2, "batch_size": 2}


def in_pass(model: str, side: int = 64, **more: object) -> AnomalibModel:
    return AnomalibModel(*TEXT, **{"teacher": "resnet18", "model": model, "side": side} | more)


def in_steps(model: str, side: int = 64, **more: object) -> AnomalibTrained:
    return AnomalibTrained(*TEXT, **STEPS | {"teacher": "resnet18", "model": model, "side": side} | more)


RECIPES = [
    in_pass("Padim"),
    in_pass("Patchcore"),
    in_pass("Dfm"),
    AnomalibDfkde(*TEXT, side=64),
    in_steps("Stfpm"),
    in_steps("ReverseDistillation"),
    in_steps("Cfa"),
    in_steps("Cflow", arguments=(("layers", ("layer2", "layer3")), ("coupling_blocks", 2), ("fiber_batch_size", 16))),
    in_steps("Fastflow", arguments=(("flow_steps", 2),)),
    in_steps("Uflow", arguments=(("flow_steps", 1),)),
    in_steps("Supersimplenet", side=128),
    AnomalibGanomaly(*TEXT, side=64, arguments=(("n_features", 8),), **STEPS),
    in_steps("Glass", arguments=(("pretrain_embed_dim", 64), ("target_embed_dim", 64))),
    in_steps("Fre", arguments=(("input_dim", 256 * 2 * 2),)),
    in_steps("UniNet", teacher="wide_resnet50_2"),
    in_pass("MHPatchcore", teacher="wide_resnet50_2"),
    in_steps("Patchflow", **ALONE),
    in_steps("Csflow", side=128, arguments=(("cross_conv_hidden_channels", 16), ("n_coupling_blocks", 1)), **ALONE),
    in_pass("AnomalyDINO", side=56, **ALONE),
    in_pass("Rad", **ALONE),
    in_steps("L2BT", side=56, **ALONE),
    in_steps("FoundAD", side=56, arguments=(("image_size", 56),), **ALONE),
    in_steps("GeneralAD", side=56, arguments=(("backbone", "vit_small_patch14_dinov2"), ("layers", (12,)),
                                              ("hidden_dim", 64)), **ALONE),
    in_steps("Dinomaly", side=56, arguments=(("encoder_name", SMALL),), **ALONE),
    in_steps("InpFormer", side=56, arguments=(("encoder_name", SMALL),), **ALONE),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _anomalib() -> None:
    need(find_spec("anomalib"), "anomalib is not installed; make test-all makes an environment that has it")


def weights_of(arch: str) -> TeacherWeights:
    name = TeacherName(NONE) if arch == NONE else TeacherName(arch, RANDOM)
    return load_weights(TeacherRegistry(Path("none")), name)


def pictures(count: int, side: int) -> np.ndarray:
    """Smooth random images, uint8 ``(count, side, side, 3)``."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (fine * 255).byte().permute(0, 2, 3, 1).numpy().copy()


class Killed(Exception):
    pass


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.model)
def test_a_model_trains_is_read_back_and_scores(recipe: AnomalibModel, cpu: Compute, tmp_path: Path) -> None:
    seen = 20 if recipe.model == "Dfkde" else 4  # it keeps 16 principal components
    images = pictures(seen + 3, recipe.side)
    system = system_of(recipe)
    teacher = system.teacher(weights_of(recipe.teacher), recipe)
    file, checkpoint = tmp_path / "state.safetensors", tmp_path / "checkpoint"

    def train(seconds: float = 1e9, stop_after: int = 99) -> TrainedStudent:
        def count(epoch: Epoch) -> None:
            if epoch.epoch == stop_after:
                raise Killed

        torch.rand(3)  # what was drawn before plays no part
        return fit(recipe, teacher, images[:seen], None, epochs=recipe.epochs, seed=3, compute=cpu,
                   checkpoint=checkpoint, identity="smoke test", checkpoint_seconds=seconds,
                   on_epoch=count)  # fmt: skip

    trained = train()
    save_file(trained.state, file)
    if recipe.epochs is not None:
        with pytest.raises(Killed):
            train(0, stop_after=2)
        assert checkpoint.exists()
    again = train()
    assert all(torch.equal(again.state[name], tensor) for name, tensor in trained.state.items())

    detector = system.detector(recipe, teacher, load_file(file), 0.0, torch.device("cpu"))
    scored, alone = detector.score(images[seen:]), detector.score(images[seen:], batch_size=1)
    assert set(scored.images) == set(recipe.score_rules)
    for rule, values in scored.images.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(alone.images[rule], values, rtol=1e-3, atol=1e-6)
    assert (scored.maps is not None) == recipe.localises
    if scored.maps is not None:
        assert alone.maps is not None
        assert (scored.maps.shape, scored.maps.dtype) == ((3, recipe.side, recipe.side), np.float32)
        np.testing.assert_allclose(alone.maps, scored.maps, rtol=1e-3, atol=1e-3 * float(np.abs(scored.maps).max()))


def test_the_teachers_weights_are_what_patchcore_compares(cpu: Compute, tmp_path: Path) -> None:
    """With all patches kept, the bank is the average-pooled features of torchvision's own ResNet, side by side."""
    from torch.nn import functional as F
    from torchvision.models import resnet18

    weights = weights_of("resnet18")
    recipe = in_pass("Patchcore", arguments=(("coreset_sampling_ratio", 1.0),))
    images = pictures(2, 64)
    teacher = system_of(recipe).teacher(weights, recipe)
    state = fit(recipe, teacher, images, None, epochs=None, seed=0, compute=cpu, checkpoint=tmp_path / "c",
                identity="t").state  # fmt: skip
    network = resnet18(weights=None).eval()
    network.load_state_dict(weights.state, strict=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        x = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
        x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
        second = network.layer2(x)
        third = network.layer3(second)
        third = F.interpolate(F.avg_pool2d(third, 3, 1, 1), size=second.shape[-2:], mode="bilinear")
        rows = torch.cat([F.avg_pool2d(second, 3, 1, 1), third], 1).permute(0, 2, 3, 1).reshape(-1, 384)
    [bank] = [v for k, v in state.items() if k.endswith("memory_bank")]
    nearest = torch.cdist(rows.double(), bank.double()).min(1).values
    assert len(bank) >= len(rows) - 1
    assert float(nearest.sort().values[-2]) < 1e-4 * float(rows.norm(dim=1).mean())
    assert not [k for k in state if "feature_extractor" in k]


@pytest.mark.parametrize(
    ("model", "bytes_needed"),
    [
        # Kept and joined: 100 of the features at 16 x 16 positions; then four covariances at each.
        ("Padim", 2 * 4 * 40 * 100 * 16**2 + 4 * 4 * 16**2 * 100**2),
        ("Patchcore", 3 * 4 * 40 * (128 + 256) * 8**2),
        ("Dfm", 8 * 4 * 40 * 256),  # layer 3 has 4 x 4 positions, pooled to one
        ("Dfkde", 2 * 4 * 40 * 256),
    ],
)
def test_a_model_says_how_much_memory_it_takes_and_none_begins_without(
    model: str, bytes_needed: int, cpu: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    require = anomalib_model.require_memory
    monkeypatch.setattr(
        anomalib_model, "require_memory", lambda needed, what: (asked.append(needed), require(needed, what))
    )
    recipe = next(r for r in RECIPES if r.model == model)
    teacher = system_of(recipe).teacher(weights_of("resnet18"), recipe)

    def train() -> None:
        fit(recipe, teacher, pictures(40, 64), None, epochs=None, seed=0, compute=cpu, checkpoint=tmp_path / "c",
            identity="t")  # fmt: skip

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=bytes_needed - 1))
    with pytest.raises(
        RkdError, match=rf"features of 40 images, and what smoke \(anomalib's {model}\) computes of them"
    ):
        train()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=bytes_needed))
    train()
    assert asked == [bytes_needed] * 2


def test_a_coreset_is_the_same_and_takes_its_memory_once() -> None:
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    features = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))

    def select() -> tuple[list[int], int]:
        coreset, places = KCenterGreedy(features, 0.2), set[int]()
        step = coreset.update_distances

        def noted(cluster_center: int | torch.Tensor | None) -> None:
            step(cluster_center)
            places.add(coreset.min_distances.data_ptr())

        coreset.update_distances = noted
        with seeded(2, torch.device("cpu")):
            chosen = coreset.select_coreset_idxs()
        return chosen, len(places)

    theirs, _ = select()
    with anomalib_model.coreset_in_place():
        ours, places = select()
    assert ours == theirs
    assert (len(ours), places) == (60, 1)
    assert select()[0] == theirs


def test_weights_are_never_downloaded(cpu: Compute, tmp_path: Path) -> None:
    for recipe, message in (
        (in_pass("AnomalyDINO", side=56, teacher=NONE), "built on vit_small_patch14_dinov2, and the teacher is none"),
        (in_steps("Csflow", side=128, teacher=NONE), "built on efficientnet_b5, and the teacher is none"),
        (in_pass("Patchcore", arguments=(("layers", ("layer4",)),)), "reads layer4 of resnet18"),
    ):
        teacher = system_of(recipe).teacher(weights_of(recipe.teacher), recipe)
        with pytest.raises(TeacherError, match=message):
            fit(recipe, teacher, pictures(2, recipe.side), None, epochs=recipe.epochs, seed=0, compute=cpu,
                checkpoint=tmp_path / "c", identity="t")  # fmt: skip


def test_unknown_models_and_arguments_are_named(cpu: Compute, tmp_path: Path) -> None:
    for recipe, message in (
        (in_pass("Padimm"), "unknown model of anomalib 'Padimm'"),
        (in_pass("Padim", arguments=(("layer", 3),)), "unknown argument of anomalib's Padim 'layer'"),
    ):
        teacher = system_of(recipe).teacher(weights_of("resnet18"), recipe)
        with pytest.raises(UnknownName, match=message):
            fit(recipe, teacher, pictures(2, 64), None, epochs=None, seed=0, compute=cpu, checkpoint=tmp_path / "c",
                identity="t")  # fmt: skip


def test_every_model_of_anomalib_is_accounted_for() -> None:
    from anomalib.models import image

    assert {r.model for r in RECIPES} | set(UNFIT) == set(image.__all__)
