"""How models are measured side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

What = Literal["latency", "scaling", "profile"]


@dataclass(frozen=True)
class BenchConfig:
    """How models are measured.

    Attributes:
        models: Names of timm models, ours among them. convneur_m1/linear, /mlp, /published, /attention, /titans
            and /local are forms of ours: the linear memory, the two-layer memory, the paper's, self-attention or the
            memory of titans-pytorch in its place, and none. If not given, the four variants and their baselines; for a
            profile convneur_m3 and its baseline.
        sizes: Pixels a side; 224 if not given, and 224 to 2048 for scaling.
        batches: Images at a time; 1 and 8 if not given, and 1 for scaling and profile.
        dtype: Of weights and images.
        compile: Through torch.compile; the first run of each is not timed.
        training: Forward, backward and AdamW instead of inference.
        channels_last: Memory format of weights and images.
        fused: As timm's reparameterize_model makes them: local branches of ours with prepacked weights.
        by_stage: Show the parts of a profile stage by stage.
        device: cpu, cuda, mps, or auto for what there is.
        heap: kept: the C library keeps what is freed (glibc), so that no model pays for pages that another gave back.
            default: as the C library has it; times then depend on what else is measured.
        rounds: Turns of each model.
    """

    models: tuple[str, ...] = ()
    sizes: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    training: bool = False
    channels_last: bool = False
    fused: bool = False
    by_stage: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    heap: Literal["kept", "default"] = "kept"
    rounds: int = 15

    def how(self) -> dict[str, Any]:
        """How one model is run, as `convneur.bench.latency.Setting` takes it."""
        names = "dtype", "compile", "training", "channels_last", "fused"
        return {name: getattr(self, name) for name in names}

    def check(self, what: What) -> None:
        """Refuse what cannot be measured."""
        if self.rounds < 1 or min(self.sizes or (32,)) < 32 or min(self.batches or (1,)) < 1:
            raise ValueError("--rounds and --batches must be 1 or more, and --sizes 32 or more")
        if self.fused and self.training:
            raise ValueError("a fused model cannot be trained; leave --fused or --training out")
        if what == "profile" and (self.training or self.compile):
            raise ValueError("a profile is of inference, not compiled; leave --training and --compile out")


DEFAULTS = BenchConfig()
