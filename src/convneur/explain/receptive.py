"""The effective receptive field: which pixels of an image the middle of the last map depends on, and by which path.

Source: Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks"
(NeurIPS 2016, section 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from convneur.explain.looking import branches_of, evaluated, hooked, one_image
from convneur.models import ConvNeur

Answers = tuple[Tensor, Tensor | None]


def receptive_fields(model: ConvNeur, image: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of the middle of the last map with respect to each pixel, with the memory and without.

    The channels of the middle position are summed, and the absolute slopes averaged over the channels of the image. It
    is the field of this image, not of images in general: Luo et al. average over many. The model is left as it was.

    Args:
        model: On the device of the image.
        image: (C, H, W) or (1, C, H, W), normalised as the model takes it.

    Returns:
        Two of (H, W), on the CPU. With: by all paths. Without: what the global branches answer is held as it is, so
        that slopes pass through the convolutions alone; of a model that has no global branch the same.

    Raises:
        ValueError: If the image does not fit.
    """
    image = one_image(image)
    fixed = [(branch, _held) for own in branches_of(model) for branch in own]
    with evaluated(model), torch.inference_mode(False), torch.enable_grad():
        whole = _slopes(model, image)
        with hooked(fixed):
            return whole, _slopes(model, image)


def _held(_branch: object, _inputs: object, answers: Answers) -> Answers:
    first, second = answers
    return first.detach(), None if second is None else second.detach()


def _slopes(model: ConvNeur, image: Tensor) -> Tensor:
    image = image.detach().clone().requires_grad_()
    last = model.forward_features(image)
    middle = last[0, :, last.shape[2] // 2, last.shape[3] // 2]
    (slopes,) = torch.autograd.grad(middle.sum(), image)
    return slopes[0].abs().mean(0).cpu()
