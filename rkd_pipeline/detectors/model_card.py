"""What a trained model says of itself; read without loading torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """What is needed beside the weights to score an image; stored as ``model.json``.

    ``lambda_`` weighs L_KD in L_MKD, frozen before the first step.
    """

    target: str
    training: str
    teacher: str
    teacher_sha256: str
    lambda_: float
