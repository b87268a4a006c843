"""Boxes and masks: detectors, how they learn, and what they are worth."""

from convneur.tasks.backbone_utils import freeze_stages
from convneur.tasks.detection.cascade import CascadeRoIHeads
from convneur.tasks.detection.learning import parameter_groups
from convneur.tasks.detection.models import DetectorKind, create_detector
from convneur.tasks.detection.saved import load_detector, save_detector
from convneur.tasks.pyramid import FeaturePyramid

__all__ = [
    "CascadeRoIHeads",
    "DetectorKind",
    "FeaturePyramid",
    "create_detector",
    "freeze_stages",
    "load_detector",
    "parameter_groups",
    "save_detector",
]
