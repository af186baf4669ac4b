"""The choices that decide a training run. Imports nothing heavy: the command line's help shows the defaults."""

from __future__ import annotations

import dataclasses

from jaxcam.errors import JaxcamError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every choice that decides the outcome of a run.

    Attributes:
      schedule: `(size, epochs)` pairs in order: progressive resizing, sizes in pixels.
      eval_size: side at which validation pictures are scored, and the released network's input.
      batch_size: pictures a step.
      learning_rate: peak of the cosine, after `warmup` epochs of linear rise.
      weight_decay: decoupled, on kernels only.
      label_smoothing: for single-label data; 0 switches it off.
      ema: decay of the average of the weights that is evaluated and released.
      min_scale: smallest share of a picture's area that a training crop keeps.
      seed: decides initialisation, order, augmentation and dropout.
      freeze: the last layer that is kept as it is, with all before it; nothing is where empty. What it gives of each
        picture is computed once, at `eval_size`.
      views: of each training picture of which that is computed, or which a teacher sees: itself, and augmented.
      temperature: by which the logits of a teacher and of what it teaches are divided.
      teacher_weight: of what the teacher says; the labels have the rest.
    """

    schedule: tuple[tuple[int, int], ...] = ((96, 8), (128, 8))
    eval_size: int = 128
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: float = 1.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    ema: float = 0.998
    min_scale: float = 0.35
    seed: int = 0
    freeze: str = ""
    views: int = 4
    temperature: float = 1.0
    teacher_weight: float = 1.0

    def __post_init__(self):
        wrong = [
            (not self.schedule or min(map(min, self.schedule)) < 1, "sizes and epochs must be at least 1"),
            (self.eval_size < 1, "eval_size must be at least 1"),
            (self.batch_size < 1, "batch_size must be at least 1"),
            (not 0 < self.learning_rate < float("inf"), "learning_rate must be positive"),
            (not 0 <= self.warmup < len(self.sizes), "warmup must be shorter than the schedule"),
            (not 0 <= self.weight_decay < float("inf"), "weight_decay must not be negative"),
            (not 0 <= self.label_smoothing < 1, "label_smoothing must lie in [0, 1)"),
            (not 0 <= self.ema < 1, "ema must lie in [0, 1)"),
            (not 0 < self.min_scale <= 1, "min_scale must lie in (0, 1]"),
            (self.seed < 0, "seed must not be negative"),
            (self.views < 1, "views must be at least 1"),
            (not 0 < self.temperature < float("inf"), "temperature must be positive"),
            (not 0 <= self.teacher_weight <= 1, "teacher_weight must lie in [0, 1]"),
            (
                bool(self.freeze) and set(self.sizes) != {self.eval_size},
                f"frozen layers see pictures of eval_size, {self.eval_size} pixels, alone; "
                f"schedule must be like {self.eval_size}x{len(self.sizes)}",
            ),
        ]
        for is_wrong, why in wrong:
            if is_wrong:
                raise JaxcamError(f"this recipe cannot be run: {why}")

    @property
    def sizes(self) -> list[int]:
        """The side of the training pictures in each epoch."""
        return [size for size, epochs in self.schedule for _ in range(epochs)]
