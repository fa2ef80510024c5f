"""Figures 1, 2 and 4 of the paper as Mermaid drawings in architecture.md; shapes are read off the model itself.

    python docs/drawings.py [file]

rewrites the drawings between their marks in the file (architecture.md beside this one). A test compares.
"""

import re
import sys
from pathlib import Path

import torch
import torchvision

from rkd_pipeline.models.architectures import architecture
from rkd_pipeline.models.reverse_distillation import ReverseDistillation
from rkd_pipeline.models.teacher import Teacher
from rkd_pipeline.models.teacher_files import TeacherName
from rkd_pipeline.models.weights import TeacherWeights
from rkd_pipeline.recipes.named_recipes import RECIPES

FILE = Path(__file__).with_name("architecture.md")
RECIPE = RECIPES["rkd"]


class Traced:
    """Teacher and student of a recipe, run once without numbers (on torch's meta device)."""

    def __init__(self) -> None:
        arch = architecture(RECIPE.teacher)
        with torch.device("meta"):
            whole = torchvision.models.get_model(arch.name, weights=None).state_dict()
            student = ReverseDistillation(arch, RECIPE.oce_width)
        state = {k: v for k, v in whole.items() if not k.startswith(("layer4", "fc"))}
        teacher = Teacher(TeacherWeights(TeacherName(arch.name), state, "shapes only", "")).to("meta")
        self.shapes: dict[str, str] = {}
        for name, module in student.named_modules():
            module.register_forward_hook(lambda _, __, output, name=name: self._note(name, output))
        images = torch.empty(1, RECIPE.side, RECIPE.side, 3, dtype=torch.uint8, device="meta")
        features = teacher(images)
        student(features)
        self.teacher = [_shape(f) for f in features]
        self.joined = student.ocbe.oce[0].conv1.in_channels
        self.depth = len(student.ocbe.oce)
        self.blocks = [len(stage) for stage in student.decoder.stages]
        self.parameters = {
            name: sum(p.numel() for p in part.parameters())
            for name, part in (("teacher", teacher), ("ocbe", student.ocbe), ("decoder", student.decoder))
        }

    def _note(self, name: str, output: object) -> None:
        if isinstance(output, torch.Tensor):
            self.shapes[name] = _shape(output)

    def millions(self, part: str) -> str:
        return f"{self.parameters[part] / 1e6:.1f} M parameters"


def _shape(tensor: torch.Tensor) -> str:
    return " × ".join(str(n) for n in tensor.shape[1:])


def figure_1(model: Traced) -> str:
    return f"""flowchart LR
    subgraph mkd["Multiresolution KD: the student sees the image"]
        direction LR
        image_a([image]) --> s1[source 1] --> s2[source 2] --> s3[source 3]
        image_a --> c1[cloner 1] --> c2[cloner 2] --> c3[cloner 3]
        s1 -. compare .- c1
        s2 -. compare .- c2
        s3 -. compare .- c3
    end
    subgraph rkd["Reverse KD: the student sees one embedding of the teacher's features"]
        direction LR
        image_b([image]) --> e1["teacher 1<br>{model.teacher[0]}"] --> e2["teacher 2<br>{model.teacher[1]}"]
        e2 --> e3["teacher 3<br>{model.teacher[2]}"]
        e1 & e2 & e3 --> ocbe["OCBE<br>{model.shapes["ocbe"]}"]
        ocbe --> d3["student 3<br>{model.shapes["decoder.stages.0"]}"]
        d3 --> d2["student 2<br>{model.shapes["decoder.stages.1"]}"]
        d2 --> d1["student 1<br>{model.shapes["decoder.stages.2"]}"]
        e1 -. compare .- d1
        e2 -. compare .- d2
        e3 -. compare .- d3
    end
    mkd ~~~ rkd"""


def figure_2(model: Traced) -> str:
    return f"""flowchart LR
    image(["image<br>3 × {RECIPE.side} × {RECIPE.side}"]) --> e1
    subgraph teacher["teacher E, frozen: {RECIPE.teacher}, {model.millions("teacher")}"]
        e1["block 1<br>{model.teacher[0]}"] --> e2["block 2<br>{model.teacher[1]}"]
        e2 --> e3["block 3<br>{model.teacher[2]}"]
    end
    e1 & e2 & e3 --> mff
    subgraph ocbe["OCBE, {model.millions("ocbe")}"]
        mff["MFF<br>{model.joined} channels"] --> oce["OCE<br>{model.shapes["ocbe"]}"]
    end
    oce --> d3
    subgraph decoder["student D, {model.millions("decoder")}"]
        d3["stage 3, {model.blocks[0]} blocks<br>{model.shapes["decoder.stages.0"]}"]
        d3 --> d2["stage 2, {model.blocks[1]} blocks<br>{model.shapes["decoder.stages.1"]}"]
        d2 --> d1["stage 1, {model.blocks[2]} blocks<br>{model.shapes["decoder.stages.2"]}"]
    end
    e1 -. "M¹: 1 - cosine" .- d1
    e2 -. "M²" .- d2
    e3 -. "M³" .- d3"""


def figure_4(model: Traced) -> str:
    shapes = model.shapes
    blocks = " --> ".join(f'b{i}["residual block<br>{shapes[f"ocbe.oce.{i}"]}"]' for i in range(model.depth))
    return f"""flowchart LR
    f1(["f¹<br>{model.teacher[0]}"]) --> r11["3 × 3 conv, stride 2<br>{shapes["ocbe.reduce_1.2"]}"]
    r11 --> r12["3 × 3 conv, stride 2<br>{shapes["ocbe.reduce_1"]}"]
    f2(["f²<br>{model.teacher[1]}"]) --> r2["3 × 3 conv, stride 2<br>{shapes["ocbe.reduce_2"]}"]
    f3(["f³<br>{model.teacher[2]}"])
    subgraph mff["MFF: convolutions with BatchNorm and ReLU"]
        r11
        r12
        r2
        concat["concatenate<br>{model.joined} channels"]
    end
    r12 & r2 & f3 --> concat
    subgraph oce["OCE"]
        {blocks}
    end
    concat --> b0"""


def drawings() -> dict[str, str]:
    """Name to Mermaid text."""
    model = Traced()
    return {"figure_1": figure_1(model), "figure_2": figure_2(model), "figure_4": figure_4(model)}


def redrawn(text: str) -> str:
    """A page with its drawings made anew; raises ``ValueError`` where a mark is missing."""
    for name, drawing in drawings().items():
        mark = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text, count = re.subn(mark, lambda m, d=drawing: f"{m[1]}```mermaid\n{d}\n```\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"expected one <!-- {name} --> ... <!-- end of {name} -->, found {count}")
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    page.write_text(redrawn(page.read_text(encoding="utf-8")), encoding="utf-8")
