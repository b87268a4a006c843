"""How features of many images are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EmbedConfig:
    """How features are computed. The first four decide what comes out, the others who does the work.

    Attributes:
        part_size: Images in a part, which is what is lost when a job is killed.
        image_size: Pixels a side; what the model was made for if not given.
        half: Keep float16 instead of float32.
        max_megapixels: Larger images count as unreadable.
        max_unreadable: Largest share of images that may be unreadable.
        batch_size: Images at a time.
        workers: Processes that decode images, for each model that computes; as many as suit the machine if not given.
        device: To compute on; auto takes a GPU if there is one.
        engine: local computes in this process, ray on a cluster or in several processes of this machine.
        ray_address: Of a cluster of Ray, or auto for the one this machine is in; one is started here if not given.
        ray_workers: Models that compute at the same time, with ray.
    """

    part_size: int = 4096
    image_size: int | None = None
    half: bool = False
    max_megapixels: float = 100.0
    max_unreadable: float = 0.01
    batch_size: int = 64
    workers: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    ray_workers: int = 2

    @property
    def max_pixels(self) -> int:
        """The same as ``max_megapixels``."""
        return round(self.max_megapixels * 1e6)

    def check(self) -> None:
        """Refuse numbers, by the name of their flag, with which nothing can be computed."""
        numbers: dict[str, tuple[float, float]] = {
            "part-size": (self.part_size, 1),
            "image-size": (1 if self.image_size is None else self.image_size, 1),
            "batch-size": (self.batch_size, 1),
            "workers": (self.workers or 0, 0),
            "ray-workers": (self.ray_workers, 1),
            "max-megapixels": (self.max_pixels, 1),
        }
        for flag, (number, least) in numbers.items():
            if number < least:
                raise ValueError(f"--{flag} {number:g} is out of range; give at least {least:g}")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"--max-unreadable {self.max_unreadable} is out of range; give 0 to 1")


DEFAULTS = EmbedConfig()
