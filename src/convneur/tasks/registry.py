"""The tasks by their names, and what a saved model is for; each task is imported when it is first asked for."""

from __future__ import annotations

from typing import Any

from convneur.models.registry_utils import choose
from convneur.tasks.predictor import Predictor
from convneur.tasks.saved import find_model
from convneur.tasks.spec import TaskSpec

TASKS = ("classification", "detection", "instance", "segmentation")


def task_named(name: str) -> TaskSpec[Any, Any, Any]:
    """The task of a name.

    Raises:
        ValueError: If there is none; with the closest one.
    """
    choose(name, TASKS, "task")
    if name == "classification":
        from convneur.tasks.classification.spec import ClassificationSpec

        return ClassificationSpec()
    if name == "segmentation":
        from convneur.tasks.segmentation.spec import SegmentationSpec

        return SegmentationSpec()
    from convneur.tasks.detection.spec import DetectionSpec, InstanceSpec

    return InstanceSpec() if name == "instance" else DetectionSpec()


def predictor_class_of(source: str) -> type[Predictor]:
    """What uses the model in ``source``: as its config.json says; a classifier's, where there is none.

    Raises:
        ValueError: If config.json is damaged.
    """
    key = next((key for key in ("detector", "segmenter") if find_model(source, key) is not None), "")
    name = {"detector": "detection", "segmenter": "segmentation"}.get(key, "classification")
    return task_named(name).predictor_class
