"""The tasks by their names, and what a saved model is for; each task is imported when it is first asked for."""

from __future__ import annotations

from typing import Any

from convneur.export.formats import is_segmenter
from convneur.models.registry_utils import choose
from convneur.tasks.predictor import Predictor
from convneur.tasks.saved import find_model
from convneur.tasks.spec import TaskSpec
from convneur.tasks.weights_file import model_of_weights, with_weights

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
        FileNotFoundError: If it is a file of weights, and nothing says of which model.
        ValueError: If config.json is damaged.
    """
    source = str(model_of_weights(source) or source)
    key = next((key for key in ("detector", "segmenter") if find_model(source, key) is not None), "")
    if not key and is_segmenter(source):
        key = "segmenter"
    name = {"detector": "detection", "segmenter": "segmentation"}.get(key, "classification")
    return task_named(name).predictor_class


def open_predictor(source: str, trust: bool = False) -> Predictor:
    """A trained model in use: a folder of a run or model, a name, an exported file, or a file of weights of a run.

    Raises:
        FileNotFoundError: If there is no such model.
        OSError: If it cannot be fetched.
        ValueError: If it cannot be loaded, or would run code and ``trust`` is not set.
    """
    kind: Any = predictor_class_of(source)
    folder = model_of_weights(source)
    found: Predictor = kind.load(source if folder is None else str(folder), trust)
    return found if folder is None else with_weights(found, source)
