"""The family with random weights that all matter, to measure exported files with until there are trained ones."""

from __future__ import annotations

import torch
from torch import nn

from convneur.layers import GlobalBranch
from convneur.models import Loaded, create_model


def untrained(name: str) -> Loaded:
    """A variant in eval mode, none of whose parts is too faint to be compared.

    New layer scales are a millionth and new global branches answer zero: an export that got either wrong would not be
    noticed.

    Raises:
        ValueError: For an unknown name.
    """
    model = create_model(name).eval()
    for module in model.modules():
        if isinstance(module, GlobalBranch):
            for up in (module.up, module.up_shift):
                nn.init.trunc_normal_(up.weight, std=0.02) if up is not None else None
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(".gamma"):
                parameter.fill_(0.5)
    return Loaded(model, dict(model.pretrained_cfg), None)
