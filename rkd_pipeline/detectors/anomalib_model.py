"""Any image model of anomalib as a system: it computes; splits, images, seeds, the loop, scores and metrics are ours.

anomalib's own engine, pre- and post-processors, metrics and visualisers are not used: scores and maps are a model's raw
ones. Weights of a backbone are the teacher's, never a download. anomalib is imported when a model is made.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rkd_pipeline.data.rows import Images
from rkd_pipeline.detectors import Detector, System
from rkd_pipeline.detectors.anomalib_trainer import (
    Batch,
    Batches,
    StubTrainer,
    normalised,
    optimisers_of,
    seeded,
    without_bars,
    without_lightning,
)
from rkd_pipeline.detectors.anomaly_map import Scores, smoothed
from rkd_pipeline.detectors.patch_features import require_memory
from rkd_pipeline.errors import RkdError, TeacherError, UnknownName
from rkd_pipeline.models.teacher_files import NONE
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.progress import batches
from rkd_pipeline.recipes.anomalib_recipes import UNFIT, AnomalibModel, AnomalibTrained
from rkd_pipeline.recipes.recipe import GradientRecipe
from rkd_pipeline.training.task import FittingTask, TaskInputs, TrainingTask

INSTALL = "pip install --constraint constraints.txt '.[anomalib]'"
FIT_BATCH = 32  # anomalib's own for training
_UNUSED = ("layer4.", "fc.")  # of torchvision's networks, beyond what a teacher has
_Create: TypeAlias = Callable[..., nn.Module]


class Weights(nn.Module):
    """A teacher that gives its weights to the networks that a model builds, and computes nothing itself."""

    def __init__(self, weights: TeacherWeights) -> None:
        super().__init__()
        self.weights = weights


def anomalib_class(recipe: AnomalibModel) -> Any:
    """The class that a recipe names.

    Raises ``RkdError`` where anomalib is not installed or the model is none for this adapter, ``UnknownName`` where
    there is no such model.
    """
    if reason := UNFIT.get(recipe.model):
        raise RkdError(f"{recipe.name}: anomalib's {recipe.model} cannot be a system here: {reason}")
    try:
        from anomalib.models import image
    except ImportError as error:
        raise RkdError(
            f"{recipe.name} is a model of anomalib, which cannot be imported ({error}); install it: {INSTALL}"
        ) from error
    if recipe.model not in image.__all__:
        raise UnknownName("model of anomalib", recipe.model, image.__all__)
    return getattr(image, recipe.model)


# That train the backbone itself, so that its weights are part of what is learnt.
_TRAINED_BACKBONES = ("UniNet",)


class LearningModel(nn.Module):
    """A model of anomalib whose state is what it learns: a backbone's weights from a teacher are not part of it.

    Args:
        recipe: model and arguments.
        weights: of its backbone.
        side: of its images, in pixels.
        seed: of what is drawn when it is made.
        device: where it will be.

    Raises:
        RkdError, UnknownName: as those of ``anomalib_class``.
        TeacherError: the model asks for weights that the teacher does not have.
    """

    module: Any  # anomalib's, which knows itself only where it is installed

    def __init__(
        self, recipe: AnomalibModel, weights: TeacherWeights, side: int, seed: int, device: torch.device
    ) -> None:
        super().__init__()
        made_by = anomalib_class(recipe)
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms.v2 import Compose, Normalize, Resize

        from rkd_pipeline.models.frozen import IMAGENET_MEAN, IMAGENET_STD

        # Never applied: models read the side of images from it, and by what they are normalised.
        shown = PreProcessor(Compose([Resize((side, side)), Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))]))
        arguments = _arguments(recipe, made_by, weights)
        with seeded(seed, torch.device("cpu")), _weights_for_backbones(recipe, weights) as backbones:
            self.module = made_by(
                **arguments, pre_processor=shown, post_processor=False, evaluator=False, visualizer=False
            )
        if recipe.model == "Cflow":
            self.module.model.anomaly_map_generator = CflowMaps(len(self.module.model.pool_layers))
        self.to(device)
        own_memory(self)
        if recipe.model in _TRAINED_BACKBONES:
            backbones = []
        given = {id(t) for network in backbones for t in (*network.parameters(), *network.buffers())}
        tensors = self.state_dict(keep_vars=True)
        first = {id(v): k for k, v in reversed(tensors.items())}
        # What the teacher gives, and what parts of a model share and have under another name before.
        self._left_out = {k: v for k, v in tensors.items() if id(v) in given or first[id(v)] != k}
        self._given = [k for k in self._left_out if id(tensors[k]) in given]
        self._modes = [(module, module.training) for module in self.modules()]
        self._teacher = weights
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_make_room)

    def train(self, mode: bool = True) -> Self:
        """Every part learns, or does not, as the model's class made it, as with Lightning; none where ``mode`` is off.

        A backbone in training would change BatchNorm's statistics.
        """
        for module, made_so in self._modes:
            module.training = mode and made_so
        return self

    def require_given_unchanged(self) -> None:
        """Raises ``RkdError`` where the model changed the weights that it got from the teacher."""
        for name in self._given:
            parts = name.split(".")
            of_teacher = next(
                (k for k in (".".join(parts[i:]) for i in range(len(parts))) if k in self._teacher.state), ""
            )
            if of_teacher and not torch.equal(self._left_out[name].cpu(), self._teacher.state[of_teacher]):
                raise RkdError(f"anomalib's {type(self.module).__name__} changes {of_teacher} of its backbone")


def predicted(module: Any, images: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Scores ``(N,)`` and maps ``(N, S, S)``, if there are some, of uint8 images, as a model of anomalib gives them."""
    found = module.model(normalised(images, device))
    score: Tensor = found.pred_score.reshape(-1).float()
    maps: Tensor | None = getattr(found, "anomaly_map", None)
    if maps is None:
        return score, None
    maps = maps.float().reshape(len(images), 1, *maps.shape[-2:])
    side = images.shape[1]
    if maps.shape[-1] != side:
        maps = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
    return score, maps[:, 0]


def kept_tensors(module: nn.Module) -> list[Tensor]:
    """Tensors in lists, however deep, that parts of a model have: where anomalib's keep features while they learn."""
    waiting = [value for part in module.modules() for value in vars(part).values() if isinstance(value, list)]
    found: dict[int, Tensor] = {}
    while waiting:
        for value in waiting.pop():
            if isinstance(value, Tensor):
                found[id(value)] = value
            elif isinstance(value, list):
                waiting.append(value)
    return list(found.values())


def own_memory(module: nn.Module) -> None:
    """Each tensor of a model contiguous and in memory of its own, as it would be when read from a file.

    Some are made as views of others; sums over them would be rounded otherwise after a training goes on.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _leave_out(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, LearningModel)
    for name in module._left_out:
        del state[prefix + name]


def _make_room(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before loading: buffers whose size the data decide get the size of the saved ones; what was left out stays."""
    assert isinstance(module, LearningModel)
    for name, saved in state.items():
        where, _dot, leaf = name.removeprefix(prefix).rpartition(".")
        buffers = module.get_submodule(where)._buffers
        if leaf in buffers and getattr(buffers[leaf], "shape", None) != saved.shape:
            buffers[leaf] = torch.empty_like(saved, device=next(module.parameters()).device)
    # To be copied onto themselves, which changes nothing, also where they are shared.
    state.update({prefix + name: tensor for name, tensor in module._left_out.items()})


def _arguments(recipe: AnomalibModel, made_by: Any, weights: TeacherWeights) -> dict[str, Any]:
    """Of a model's class: those of the recipe, and the teacher's architecture as its backbone."""
    import inspect

    known = inspect.signature(made_by).parameters
    arguments: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in recipe.arguments}
    if unknown := [k for k in arguments if k not in known]:
        raise UnknownName(f"argument of anomalib's {recipe.model}", unknown[0], known)
    if weights.name.arch != NONE and "backbone" in known:
        arguments["backbone"] = weights.name.arch
    return arguments


@contextmanager
def _weights_for_backbones(recipe: AnomalibModel, weights: TeacherWeights) -> Iterator[list[nn.Module]]:
    """Inside, networks that are built with pretrained weights get the teacher's; yields those networks."""
    import timm
    import torchvision

    made: list[nn.Module] = []
    arch = weights.name.arch
    published: Any = torchvision.models.ResNet18_Weights.__base__  # of all enumerations of published weights
    create, download = timm.create_model, published.get_state_dict
    build: _Create | None = getattr(torchvision.models, arch, None)

    def by_timm(name: str, *args: Any, pretrained: bool = False, **options: Any) -> nn.Module:
        network = create(name, *args, pretrained=False, **options)
        if not pretrained or recipe.backbone == "drawn":
            return network
        _require_arch(recipe, weights, name.partition(".")[0])
        return _filled(network)

    def by_torchvision(*, weights: object = None, **options: Any) -> nn.Module:
        assert build is not None
        network = build(weights=None, **options)
        return network if weights is None or recipe.backbone == "drawn" else _filled(network, beyond=_UNUSED)

    def instead_of_download(which: Any, *_: Any, **__: Any) -> dict[str, Any]:
        name = next(
            n for n in torchvision.models.list_models() if torchvision.models.get_model_weights(n) is type(which)
        )
        if recipe.backbone != "drawn":
            _require_arch(recipe, weights, name)
        return torchvision.models.get_model(name, weights=None).state_dict()

    def _filled(network: nn.Module, beyond: tuple[str, ...] = ()) -> nn.Module:
        missing = network.load_state_dict(weights.state, strict=False).missing_keys
        missing = [k for k in missing if not k.endswith("num_batches_tracked")]
        if left := [k for k in missing if not k.startswith(beyond)]:
            raise TeacherError(
                f"{recipe.name}: anomalib's {recipe.model} reads {left[0].partition('.')[0]} of {arch}, and a teacher "
                "ends at layer3; choose layers up to that one"
            )
        for name, parameter in network.named_parameters():
            if name in missing:  # whatever used it would notice
                torch.nn.init.constant_(parameter, torch.nan)
        made.append(network)
        return network

    timm.create_model, published.get_state_dict = by_timm, instead_of_download
    if build is not None:
        setattr(torchvision.models, arch, by_torchvision)
    try:
        yield made
    finally:
        timm.create_model, published.get_state_dict = create, download
        if build is not None:
            setattr(torchvision.models, arch, build)


def _require_arch(recipe: AnomalibModel, weights: TeacherWeights, name: str) -> None:
    if name != weights.name.arch:
        raise TeacherError(
            f"{recipe.name}: anomalib's {recipe.model} is built on {name}, and the teacher is {weights.name}; weights "
            f"of {name} would be needed, and are never downloaded"
        )


class CflowMaps(nn.Module):
    """Maps of CFLOW whose scale comes from training images.

    anomalib divides likelihoods by the highest one of the images that are scored together, so that a score depends on
    its batch; here ``highest`` is that of the training images.
    """

    highest: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("highest", torch.zeros(layers))
        self.learns = False

    def forward(self, distribution: list[Tensor], height: list[int], width: list[int], image_size: Any) -> Tensor:
        """``K - sum_k exp(l_k - highest_k)`` of log-likelihoods ``l_k`` of K layers, ``(N, *image_size)``."""
        if self.learns:
            found = torch.stack([values.max() for values in distribution])
            self.highest = torch.maximum(self.highest, found.to(self.highest))
        likely = torch.zeros(())
        for values, highest, rows, columns in zip(distribution, self.highest, height, width, strict=True):
            layer = torch.exp(values - highest).reshape(-1, 1, rows, columns).float()
            likely = likely.to(layer) + F.interpolate(layer, size=image_size, mode="bilinear", align_corners=True)[:, 0]
        return len(distribution) - likely


@contextmanager
def coreset_in_place() -> Iterator[None]:
    """Inside, anomalib's choice of a coreset computes the same distances in memory that it takes once.

    It takes memory for all features anew in every step, between small pieces that it keeps: glibc cannot use what was
    freed again, and 2,000 steps over 20,000 patches take 30 GB.
    """
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    coreset: Any = KCenterGreedy
    own = coreset.update_distances
    room: dict[str, Tensor] = {}

    def update_distances(self: Any, cluster_center: int | Tensor | None) -> None:
        if cluster_center is None:
            return
        if self.min_distances is None:
            room["difference"] = torch.empty_like(self.features)
            room["distances"] = self.features.new_empty(len(self.features), 1)
            self.min_distances = torch.full_like(room["distances"], torch.inf)
        torch.sub(self.features, self.features[cluster_center].reshape(-1), out=room["difference"])
        torch.linalg.vector_norm(room["difference"], dim=1, keepdim=True, out=room["distances"])
        torch.minimum(self.min_distances, room["distances"], out=self.min_distances)

    coreset.update_distances = update_distances
    try:
        yield
    finally:
        coreset.update_distances = own


# Times what a model keeps of the training images: kept and joined; PatchCore's copies for its coreset; DFM's
# decomposition in double precision.
_ROOM = {"Patchcore": 3, "Dfm": 8}


class AnomalibFitting(FittingTask):
    """A model that keeps features of all training images, and makes of them what it scores by."""

    def __init__(self, recipe: AnomalibModel, weights: TeacherWeights, given: TaskInputs) -> None:
        self._given = given
        self._model = LearningModel(recipe, weights, given.images.shape[1], given.seed, given.compute.device)
        self.notes = _notes()
        self._what = f"{recipe.name} (anomalib's {recipe.model})"

    def fit(self) -> dict[str, Tensor]:
        """The whole state of the model but for its backbone's weights.

        Raises ``RkdError`` where the model cannot score an image after that.
        """
        device = self._given.compute.device
        passes = self._model.module.trainer_arguments.get("max_epochs", 1)
        trainer = StubTrainer(Batches(self._given.images, FIT_BATCH, device), passes)
        module = without_lightning(self._model.module, trainer)
        with seeded(self._given.seed, device), without_bars(), coreset_in_place():
            self._model.train()
            module.on_train_start()
            for trainer.current_epoch in range(passes):
                module.on_train_epoch_start()
                for number, batch in enumerate(trainer.batches):
                    module.training_step(batch, number)
                    if number == trainer.current_epoch == 0:
                        self._require_memory(len(batch.image))
                module.on_train_epoch_end()
            module.on_train_end()
        self._model.require_given_unchanged()
        self._try()
        return {k: v.detach().clone() for k, v in self._model.state_dict().items()}

    def _require_memory(self, seen: int) -> None:
        """Of all images, by what the model keeps of the first ones, ``seen``; raises ``RkdError`` where it is not left.

        Not exact: what a model computes with is counted in copies of what it keeps.
        """
        kept, images = kept_tensors(self._model), len(self._given.images)
        model = type(self._model.module).__name__
        needed = _ROOM.get(model, 2) * sum(t.nbytes for t in kept) * images // seen
        if model == "Padim":
            [(_, features, height, width)] = [t.shape for t in kept]
            needed += 4 * 4 * height * width * features**2  # covariances, steadied, inverted, and one in the making
        require_memory(needed, f"features of {images:,} images, and what {self._what} computes of them")

    def _try(self) -> None:
        """anomalib's models warn, or say nothing, where they had too few images to learn from."""
        self._model.eval()
        try:
            predicted(self._model.module, self._given.images[:1], self._given.compute.device)
        except (RuntimeError, ValueError, IndexError) as error:
            raise RkdError(
                f"{self._what} learnt nothing from {len(self._given.images)} images: {error}; give it more"
            ) from error


class AnomalibTraining(TrainingTask):
    """A model's own training steps, in this project's loop.

    What a step draws comes from a seed that the loop's generator gives, so that a training that goes on draws the same.
    """

    student: LearningModel
    recordable = False  # steps read values back, and several have optimisers in turn

    def __init__(self, recipe: AnomalibTrained, weights: TeacherWeights, given: TaskInputs) -> None:
        assert given.epochs is not None  # such a recipe has them
        self.lambda_, self.epoch = 0.0, 0
        self._seed, self._images, self._device = given.seed, given.images, given.compute.device
        self.student = LearningModel(recipe, weights, given.images.shape[1], given.seed, self._device)
        self.notes = _notes()
        self._trainer = StubTrainer(Batches(given.images, recipe.batch_size, self._device), given.epochs)
        self._module = without_lightning(self.student.module, self._trainer)

    def optimisers(self, recipe: GradientRecipe, *, on_gpu: bool) -> list[torch.optim.Optimizer]:
        """The model's own, with their schedules."""
        found, self._schedules = optimisers_of(self._module)
        self._module.optimizers = lambda *_, **__: found[0] if len(found) == 1 else found
        schedulers: list[Any] = [s.scheduler for s in self._schedules]
        self._module.lr_schedulers = lambda: schedulers[0] if len(schedulers) == 1 else schedulers
        return found

    def begin(self) -> float:
        """What the model does before its first step; there is no lambda."""
        self.student.train()
        with self._drawing(0), without_bars(), torch.no_grad():
            self._module.on_train_start()
        own_memory(self.student)
        return 0.0

    def start_epoch(self, epoch: int, epochs: int, optimisers: list[torch.optim.Optimizer]) -> None:
        """What the model does between epochs, and its learning rates."""
        with self._drawing(epoch), without_bars(), torch.no_grad():
            if epoch:
                self._module.on_train_epoch_end()
            self.epoch = self._trainer.current_epoch = epoch
            self._trainer.global_step = epoch * len(self._trainer.batches)
            self._module.on_train_epoch_start()
        self._advance()

    def _advance(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step")  # a training that goes on replays them
            for schedule in self._schedules:
                schedule.advance(self._trainer.global_step if schedule.each_step else self.epoch)

    def _drawing(self, epoch: int) -> Any:
        return seeded(self._seed * 1_000_003 + epoch, self._device)

    def batch(self, indices: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Images ``(N, 3, S, S)``, normalised, and a seed for what the step draws."""
        seed = torch.randint(2**31, (), generator=generator)
        return [normalised(self._images[indices.numpy()], self._device), seed]

    def update(self, batch: list[Tensor], optimisers: list[torch.optim.Optimizer]) -> Tensor:
        """One of the model's own steps; the loss of the batch stands for that of each of its images."""
        images, seed = batch
        with seeded(int(seed), self._device):
            found = self._module.training_step(Batch.of(images), self._trainer.global_step % len(self._trainer.batches))
            loss = _loss(found)
            if self._module.automatic_optimization:
                [optimiser] = optimisers
                optimiser.zero_grad(set_to_none=True)
                self._module.backward(loss)
                self._clip(optimiser)
                optimiser.step()
        self._trainer.global_step += 1
        self._advance_steps()
        return loss.detach().float().reshape(()).expand(len(images))

    def _advance_steps(self) -> None:
        for schedule in self._schedules:
            if schedule.each_step:
                schedule.advance(self._trainer.global_step)

    def _clip(self, optimiser: torch.optim.Optimizer) -> None:
        """As Lightning does where a model asks for it: by the norm of all gradients."""
        if at_most := self._module.trainer_arguments.get("gradient_clip_val"):
            learning = [p for group in optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(learning, at_most)

    def losses(self, batch: list[Tensor]) -> Tensor:
        """None of each image can be had: only ``update`` knows a model's loss, and it alone is called."""
        raise NotImplementedError("a step of anomalib's models computes and updates at once")

    def finish(self) -> None:
        """What the model does after its last epoch."""
        with self._drawing(self.epoch + 1), without_bars():
            self._module.on_train_epoch_end()
            self._module.on_train_end()
        self.student.require_given_unchanged()
        maps = getattr(self._module.model, "anomaly_map_generator", None)
        if isinstance(maps, CflowMaps):
            self._find_highest(maps)

    def _find_highest(self, maps: CflowMaps) -> None:
        maps.highest.fill_(torch.finfo(torch.float32).min)
        maps.learns = True
        for start in range(0, len(self._images), FIT_BATCH):
            predicted(self._module, self._images[start : start + FIT_BATCH], self._device)
        maps.learns = False


def _loss(found: Any) -> Tensor:
    """The loss that a step returns, alone, by name, or as several that are added for the history."""
    if isinstance(found, Tensor):
        return found
    return found["loss"] if "loss" in found else torch.stack([v.reshape(()) for v in found.values()]).sum()


def _notes() -> dict[str, str]:
    return {"anomalib": version("anomalib")}


class AnomalibDetector(Detector):
    """A trained model; maps and scores are its own, raw."""

    def __init__(self, recipe: AnomalibModel, model: LearningModel, device: torch.device) -> None:
        self.recipe, self.model, self.device = recipe, model.eval(), device

    @torch.no_grad()
    def score(self, images: Images, *, batch_size: int = 16) -> Scores:
        """Scores, and maps of a model that localises, smoothed once more where the recipe says so."""
        scores, maps = [], []
        for start in batches(len(images), batch_size, "score images"):
            score, found = predicted(self.model.module, images[start : start + batch_size], self.device)
            scores.append(score.cpu())
            if self.recipe.localises:
                if found is None:
                    raise RkdError(
                        f"{self.recipe.name}: anomalib's {self.recipe.model} gives no maps with its arguments"
                    )
                maps.append(smoothed(found, self.recipe.sigma).cpu())
        own = {"image_score": torch.cat(scores).double().numpy()}
        if not maps:
            return Scores(None, own)
        stacked = torch.cat(maps).numpy()
        return Scores(stacked, own | {"map_max": stacked.max(axis=(1, 2)).astype(np.float64)})


class _AnomalibSystem(System[AnomalibModel, Weights]):
    """A model of anomalib, whichever the recipe names."""

    def teacher(self, weights: TeacherWeights, recipe: AnomalibModel) -> Weights:
        """The weights that the model's backbone gets."""
        return Weights(weights)

    def task(self, recipe: AnomalibModel, teacher: Weights, given: TaskInputs) -> TrainingTask | FittingTask:
        """Steps of a model that has some, one pass of another."""
        if isinstance(recipe, AnomalibTrained):
            return AnomalibTraining(recipe, teacher.weights, given)
        return AnomalibFitting(recipe, teacher.weights, given)

    def detector(
        self, recipe: AnomalibModel, teacher: Weights, state: dict[str, Tensor], lambda_: float, device: torch.device
    ) -> AnomalibDetector:
        """The model made anew, with what was learnt."""
        model = LearningModel(recipe, teacher.weights, recipe.side, 0, device)
        model.load_state_dict(state)
        return AnomalibDetector(recipe, model, device)


SYSTEM = _AnomalibSystem()
