"""Grad-CAM of a classifier, by pytorch-grad-cam, an optional dependency.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization"
(ICCV 2017, section 3).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from convneur.explain.looking import one_image
from convneur.models import ConvNeur

NEEDS = "Grad-CAM needs the package grad-cam; pip install 'convneur[explain]'"


def grad_cam(model: ConvNeur, image: Tensor, answer: int) -> Tensor:
    """Where the last map speaks for an answer: 0 where it does least, 1 where most. The model is left as it was.

    Args:
        model: A classifier; on the device of the image.
        image: (C, H, W) or (1, C, H, W), normalised as the model takes it.
        answer: Number of the class.

    Returns:
        (h, w) on the last map, on the CPU; all zero if nothing speaks for the answer.

    Raises:
        ImportError: If the package is missing.
        ValueError: If the image does not fit.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ImportError(NEEDS) from error

    class OnLastMap(GradCAM):
        """Not stretched to the image, of which the last map need not cover all."""

        def get_target_width_height(self, images: Tensor) -> tuple[int, int]:
            height, width = self.activations_and_grads.activations[0].shape[-2:]
            return width, height

    with torch.inference_mode(False), torch.enable_grad():
        # A copy, because the package throws the gradients of parameters away.
        own = copy.deepcopy(model).requires_grad_()
        with OnLastMap(own, [own.stages[-1]]) as cam:
            found = cam(one_image(image).detach().clone(), [ClassifierOutputTarget(answer)])[0]
    return torch.from_numpy(found)
