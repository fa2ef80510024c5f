"""The key of a training: one line that says everything that was trained.

    <recipe>[@<teacher>][~<epochs>e]-s<seed>[r<repeat>]

``rkd-s0`` is the paper's own recipe, seed 0, on repeat 0 of the split. ``rkd@resnet18.4c740094~40e-s1`` has a
ResNet-18 teacher from a weights file (the first 8 hex digits of its SHA-256) and 40 epochs instead of 200;
``rkd@embedded~40e-s1`` the teacher that comes with the package. A recipe may be a variant, ``rkd+beta2=0.999-s0``
(``variants.py``). A part is written only where it differs from the recipe, so that one training has one key; a recipe
without a teacher, or that learns in one pass, has no such part: ``ssim-ae~20e-s0``, ``padim@embedded-s0``.
"""

import re
from dataclasses import dataclass, replace

from rkd_pipeline.errors import BadKey, RkdError
from rkd_pipeline.models.architectures import NETWORKS, Transformer
from rkd_pipeline.models.teacher_files import NONE, TeacherName
from rkd_pipeline.recipes.lookup import recipe
from rkd_pipeline.recipes.named_recipes import trained_as
from rkd_pipeline.recipes.recipe import Recipe

_PATTERN = re.compile(
    r"(?P<recipe>[a-z0-9]+(?:-[a-z0-9]+)*?(?:\+[a-z0-9]+=[a-z0-9_.]+)*)"
    r"(?:@(?P<teacher>[a-z0-9_.]+))?"
    r"(?:~(?P<epochs>[1-9]\d*)e)?"
    r"-s(?P<seed>0|[1-9]\d*)"
    r"(?:r(?P<repeat>0|[1-9]\d*))?"
)
GRAMMAR = "<recipe>[@<teacher>][~<epochs>e]-s<seed>[r<repeat>], for example rkd-s0 or rkd-es@resnet18~40e-s1"


@dataclass(frozen=True)
class TrainingKey:
    """A parsed key.

    Attributes:
        recipe: what to train.
        teacher: whose features to distil.
        epochs: length of the schedule; None for a recipe that learns in one pass.
        seed: of initialisation and shuffling.
        repeat: which repeat of the split is read.
    """

    recipe: Recipe
    teacher: TeacherName
    epochs: int | None
    seed: int
    repeat: int

    @classmethod
    def compose(
        cls,
        recipe_name: str,
        *,
        seed: int,
        teacher: TeacherName | None = None,
        epochs: int | None = None,
        repeat: int | None = None,
    ) -> "TrainingKey":
        """A key from its parts; what is not given comes from the recipe (or, for the repeat, from the seed).

        Raises ``UnknownName`` for an unknown recipe, ``BadKey`` for numbers out of range, epochs for a recipe that
        has none, or a teacher that the recipe's system cannot use.
        """
        base = recipe(recipe_name)
        if epochs is not None and base.epochs is None:
            raise BadKey(f"{base.title} ({base.name}) learns in one pass: it has no epochs")
        if epochs is not None and epochs < 1:
            raise BadKey(f"epochs must be at least 1, not {epochs}")
        if seed < 0 or (repeat is not None and repeat < 0):
            raise BadKey(f"seed and repeat must not be negative: seed {seed}, repeat {repeat}")
        named = teacher or TeacherName(base.teacher)
        if named.arch not in (base.networks or (NONE,)):
            fitting = f"takes {', '.join(base.networks)} as a teacher" if base.networks else "has no teacher"
            raise BadKey(f"{base.title} ({base.name}) {fitting}, not {named.arch}")
        arch = NETWORKS.get(named.arch)
        if isinstance(arch, Transformer) and base.side % arch.patch:
            raise BadKey(
                f"{arch.name} cuts images into patches of {arch.patch} pixels, and those of {base.name} have "
                f"{base.side}, which is no multiple; take a recipe for {16 * arch.patch} or {32 * arch.patch} pixels"
            )
        return cls(
            recipe=base,
            teacher=named,
            epochs=epochs or base.epochs,
            seed=seed,
            repeat=seed if repeat is None else repeat,
        )

    @classmethod
    def parse(cls, text: str) -> "TrainingKey":
        """The key that ``text`` spells; raises ``BadKey`` with the grammar, or with the canonical spelling."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise BadKey(f"{text!r} is not a training key; write {GRAMMAR}")
        part = match.groupdict()
        try:
            key = cls.compose(
                part["recipe"],
                teacher=TeacherName.parse(part["teacher"]) if part["teacher"] else None,
                epochs=int(part["epochs"]) if part["epochs"] else None,
                seed=int(part["seed"]),
                repeat=int(part["repeat"]) if part["repeat"] else None,
            )
        except RkdError as error:
            raise BadKey(f"training key {text!r}: {error}") from error
        if str(key) != text:
            raise BadKey(f"{text!r} says what the recipe says already; its one key is {key}")
        return key

    @property
    def short_schedule(self) -> bool:
        """Trained for fewer epochs than the recipe asks for."""
        return self.epochs is not None and self.recipe.epochs is not None and self.epochs < self.recipe.epochs

    @property
    def training(self) -> "TrainingKey":
        """The key whose training this one uses: its own, unless its recipe differs from another in scoring alone."""
        return replace(self, recipe=trained_as(self.recipe))

    def __str__(self) -> str:
        own = TeacherName(self.recipe.teacher)
        teacher = "" if self.teacher == own else f"@{self.teacher}"
        epochs = "" if self.epochs == self.recipe.epochs else f"~{self.epochs}e"
        repeat = "" if self.repeat == self.seed else f"r{self.repeat}"
        return f"{self.recipe.name}{teacher}{epochs}-s{self.seed}{repeat}"
