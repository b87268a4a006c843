"""What a task must have, so that one path trains, evaluates, predicts and reports for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from convneur.data.module import PictureData
from convneur.printing import Console
from convneur.tasks.base import Task
from convneur.tasks.predictor import Predictor
from convneur.training.run_folder import Length
from convneur_options.run import RunConfig

C = TypeVar("C", bound=RunConfig)
R = TypeVar("R")
P = TypeVar("P", bound=Predictor)


@dataclass(frozen=True)
class Opened:
    """The images of a run.

    Attributes:
        whole: All that the data has, by which a run is known again.
        source: Those to train on and to judge by; fewer, if fewer are asked for.
        facts: What else of the data decides what comes out, as JSON can hold it.
    """

    whole: Any
    source: Any
    facts: Mapping[str, Any]


class TaskSpec(ABC, Generic[C, R, P]):
    """One task: what can be set, how its images are opened, its model, how that learns, and what uses it afterwards.

    `convneur.training.run.train` calls these in the order in which they stand here. Evaluating, predicting, saving and
    loading are the predictor's.

    Attributes:
        name: As in ``convneur train NAME``.
        config_class: Of the settings of a run.
        recipes: By their names; ``quick`` is the default.
        predictor_class: What a trained model of the task is used by.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[RunConfig]]
    recipes: ClassVar[Mapping[str, Any]]
    predictor_class: ClassVar[type[Predictor]]

    @abstractmethod
    def check(self, config: C, recipe: R) -> None:
        """Refuse settings of which no run can be made, by the name of their flag.

        Raises:
            ValueError: For the first of them.
        """

    def largest_batch(self, recipe: R, images: int) -> int:
        """How many of so many images a batch may have."""
        return images

    @abstractmethod
    def open_data(self, config: C) -> Opened:
        """Find the images; those of ``config.data`` that are trained on, and those that are judged by."""

    @abstractmethod
    def build_model(self, config: C, recipe: R, source: Any, console: Console | None = None) -> P:
        """The model that learns, with the weights to start from, as what uses it afterwards.

        Args:
            config: Of the run.
            recipe: Of the run.
            source: The images: their classes are the model's.
            console: Where it is said which parts of the model are new; None for nowhere.
        """

    @abstractmethod
    def create_again(self, predictor: P, config: C, recipe: R) -> nn.Module:
        """The same model on the CPU, whose weights are to be replaced: what training did to the first does not show."""

    @abstractmethod
    def make_data(self, predictor: P, source: Any, config: C, recipe: R) -> PictureData:
        """Batches to train on and to evaluate on."""

    @abstractmethod
    def make_module(
        self, predictor: P, source: Any, config: C, recipe: R, length: Length, console: Console | None = None
    ) -> Task:
        """The model as Lightning trains it."""

    def unused_parameters(self, predictor: P) -> bool:
        """Whether some steps leave parameters without gradient, which several processes must know of."""
        return True
