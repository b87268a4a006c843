"""What `convneur.export` needs of a model, whatever its task."""

from __future__ import annotations

from convneur.export.checked import Exportable, classifier_named
from convneur.tasks.detection.saved import detector_folder
from convneur.tasks.segmentation.predictor import SegmentationPredictor
from convneur.tasks.segmentation.saved import segmenter_folder


def open_exportable(name: str) -> Exportable:
    """A trained classifier or segmentation model, or, by a name of ours, a new classifier.

    Raises:
        FileNotFoundError: If there is no such model.
        OSError: If it cannot be fetched.
        ValueError: If it cannot be loaded, or is a detector.
    """
    if detector_folder(name) is not None:
        raise ValueError(f"{name} is a detector, which cannot be exported yet; classifiers and segmentation models can")
    if segmenter_folder(name) is not None:
        return SegmentationPredictor.load(name).exportable()
    return classifier_named(name)
