"""Plans: which trainings belong together. "Missing" means planned and absent."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rkd_pipeline.data.catalog import targets_of
from rkd_pipeline.errors import UnknownName
from rkd_pipeline.models.teacher_files import EMBEDDED, TeacherName
from rkd_pipeline.recipes import anomalib_recipes
from rkd_pipeline.recipes.ablation_design import INTERACTIONS, design
from rkd_pipeline.recipes.anomalib_recipes import anomalib_is_installed
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.training_key import TrainingKey


@dataclass(frozen=True)
class PlannedTraining:
    """One planned training: a target's name and a training key."""

    target: str
    training: str

    @property
    def shared(self) -> "PlannedTraining | None":
        """The training whose model this one uses, where its recipe differs from another in scoring alone."""
        key = TrainingKey.parse(self.training)
        return None if key.training == key else PlannedTraining(self.target, str(key.training))


def training_keys(cells: Iterable[PlannedTraining]) -> list[str]:
    """Every training key that a plan needs, each once, those of shared trainings too."""
    needed = [key for cell in cells for key in (cell.shared, cell) if key is not None]
    return list(dict.fromkeys(cell.training for cell in needed))


def cross(
    targets: Iterable[str],
    recipes: Iterable[str],
    seeds: Sequence[int],
    *,
    teacher: TeacherName | None = None,
    epochs: int | None = None,
) -> list[PlannedTraining]:
    """Every target with every recipe and seed, seed by seed: an early stop leaves whole comparisons.

    Teacher and epochs are for the recipes that have them. Raises ``UnknownName`` or ``BadKey`` for what cannot be
    trained, and for a teacher or epochs that no recipe has.
    """
    recipes, targets = list(recipes), list(targets)
    with_teacher = [r for r in recipes if recipe(r).networks]
    with_epochs = [r for r in recipes if recipe(r).epochs is not None]
    keys = [
        TrainingKey.compose(
            r,
            seed=s,
            teacher=teacher if r in with_teacher or not with_teacher else None,
            epochs=epochs if r in with_epochs or not with_epochs else None,
        )
        for s in seeds
        for r in recipes
    ]
    by_seed = {s: [str(k) for k in keys if k.seed == s] for s in seeds}
    return [PlannedTraining(t, k) for s in seeds for t in targets for k in by_seed[s]]


# The paper's own experiments on the medical datasets: what the UI offers before anybody has added a key.
PAPER_RECIPES = ("rkd", "rkd-es", "rkd-mkd")

# Short enough for minutes on two cores, long enough for the numbers in docs/demo.md.
DEMO_EPOCHS, DEMO_MKD_EPOCHS = 7, 5
ABLATION_CENTRE, ABLATION_EPOCHS = "rkd-brief", 8


def demo() -> list[PlannedTraining]:
    """Every demo target with RD4AD's recipe, one with the paper's L_MKD too, both brief; nothing is downloaded.

    The latter holds normals out to calibrate a threshold: it can be champion.
    """
    teacher = TeacherName.parse(EMBEDDED)
    targets = [t.name for t in targets_of("demo")]
    official = cross(targets, ["rkd-official-brief"], [0], teacher=teacher, epochs=DEMO_EPOCHS)
    paper = cross(["demo.weave"], ["rkd-mkd-cal-brief"], [0], teacher=teacher, epochs=DEMO_MKD_EPOCHS)
    return official + paper


# Of the plan of systems: under an hour on two cores; None is the recipe's own schedule. Reverse KD's are the demo's own
# trainings. In brief, since a demo target has two batches of MKD's own size: minutes of them would be no training.
SYSTEMS_EPOCHS: dict[str, int | None] = {
    "mkd-brief": 16,
    "mkd-brief-discrepancy": 16,
    "us-small": 8,
    "rkd-official-brief": DEMO_EPOCHS,
    **dict.fromkeys(("padim-brief", "patchcore-brief", "subspace-brief", "one-gaussian-brief", "feature-dictionary")),
    **dict.fromkeys(("deep-ocsvm", "deep-isolation-forest", "deep-lof")),
    "stfpm-brief": None,
    "rkdad-brief": 8,
    "rdpp-brief": 4,
    "recontrast-brief": 4,
    "ssim-ae-brief": 12,
    "l2-ae-brief": 12,
    **dict.fromkeys(("lsa-brief", "f-anogan-brief", "anogan-brief")),
}

# Added to that plan where the extra is installed: one recipe of each model, at its own schedule.
ANOMALIB_BRIEF = tuple(r.name for r in anomalib_recipes.RECIPES if r.name.endswith("-brief"))


def systems() -> list[PlannedTraining]:
    """Every system on every demo target, at short schedules; anomalib's models too where that extra is installed.

    Target by target; both maps of MKD share its training.
    """
    teacher = TeacherName.parse(EMBEDDED)
    schedules = SYSTEMS_EPOCHS | (dict.fromkeys(ANOMALIB_BRIEF) if anomalib_is_installed() else {})
    return [
        cell
        for target in targets_of("demo")
        for name, epochs in schedules.items()
        for cell in cross([target.name], [name], [0], teacher=teacher if recipe(name).networks else None, epochs=epochs)
    ]


def ablation(
    targets: Iterable[str],
    centres: Iterable[str],
    seeds: Sequence[int],
    *,
    teacher: TeacherName | None = None,
    epochs: int | None = None,
    interactions: Sequence[tuple[str, str]] = INTERACTIONS,
) -> list[PlannedTraining]:
    """Every training of the ablation around each centre (``ablation_design.py``), on every target and seed.

    Raises ``UnknownName`` or ``BadKey`` for what cannot be trained.
    """
    recipes = [
        name
        for centre in centres
        for name in design(centre, (teacher or TeacherName(recipe(centre).teacher)).arch, interactions).recipes
    ]
    return cross(targets, dict.fromkeys(recipes), seeds, teacher=teacher, epochs=epochs)


def demo_ablation() -> list[PlannedTraining]:
    """The ablation around the paper's recipe, in brief, on the demo's textures: what can be shown without downloads.

    In brief, since 76 images are three batches of the recipe's own size: a schedule of minutes would be no training.
    """
    textures = [t.name for t in targets_of("demo") if t.kind == "texture"]
    return ablation(textures, [ABLATION_CENTRE], [0], teacher=TeacherName.parse(EMBEDDED), epochs=ABLATION_EPOCHS)


MEDICAL = ("brain_mri", "head_ct", "retinal_oct.half")  # the paper trained on half of Retinal OCT
LOCALISING_RECIPES = ("rkd", "rkd-official")


def table_1() -> list[PlannedTraining]:
    """Textures of MVTec AD, with the paper's recipe and RD4AD's: 200 epochs, Wide-ResNet-50-2."""
    return cross(_mvtec_ad("texture"), LOCALISING_RECIPES, [0])


def table_2() -> list[PlannedTraining]:
    """Objects of MVTec AD, as in Table 1."""
    return cross(_mvtec_ad("object"), LOCALISING_RECIPES, [0])


def table_3() -> list[PlannedTraining]:
    """The medical targets with the paper's three trainings, three repeats each."""
    return cross(MEDICAL, PAPER_RECIPES, [0, 1, 2])


def table_4() -> list[PlannedTraining]:
    """Textures of MVTec AD trained on L_MKD, with and without early stopping: the paper leaves open which."""
    return cross(_mvtec_ad("texture"), ("rkd-mkd", "rkd-mkd-es"), [0])


def paper() -> list[PlannedTraining]:
    """Everything that Tables 1 to 4 need; days of a GPU."""
    return [*table_3(), *table_1(), *table_2(), *table_4()]


def _mvtec_ad(kind: str) -> list[str]:
    return [t.name for t in targets_of("mvtec_ad") if t.kind == kind]


PLANS: dict[str, Callable[[], list[PlannedTraining]]] = {
    plan.__name__: plan for plan in (demo, systems, paper, table_1, table_2, table_3, table_4)
} | {"ablation": demo_ablation}


def named(name: str) -> list[PlannedTraining]:
    """The plan of that name; raises ``UnknownName`` with the list of known ones."""
    try:
        return PLANS[name]()
    except KeyError:
        raise UnknownName("plan", name, PLANS) from None
