"""Models to test with."""

import timm
import torch

import convneur


def create(name: str, **kwargs) -> convneur.ConvNeur:
    """A model whose global branch has an effect: its last projection is moved off zero."""
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "global_branch.up" in key:
                parameter.normal_(std=0.05)
            if key.endswith("gamma"):
                parameter.fill_(0.5)
    return model
