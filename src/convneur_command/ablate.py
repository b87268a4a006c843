"""``convneur ablate``: a table of models that differ in one thing, trained alike and measured side by side."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convneur_command.running import recipe_named
from convneur_options.classification import MOSAIC, RECIPES, ClassificationRecipe
from convneur_options.mosaic import MosaicConfig

RecipeName = Literal["quick", "finetune", "cifar", "imagenet", "mosaic"]
TableName = Literal["core", "search", "token_mixer", "memory", "fusion", "placement", "width", "tokens"]


def ablate_verb(arguments: Sequence[str]) -> Callable[..., None]:
    """Make the verb with the defaults of the recipe that the arguments name."""
    mosaics = MosaicConfig()
    name, chosen = recipe_named(arguments, "cifar", RECIPES | {"mosaic": MOSAIC})

    def ablate(
        table: Annotated[TableName, tyro.conf.Positional],
        data: str,
        budget: Literal["tiny", "small", "full"] = "small",
        recipe: RecipeName = name,
        out: Path = Path("runs/ablation"),
        only: tuple[str, ...] = (),
        seeds: tuple[int, ...] | None = None,
        train_images: int | None = None,
        dims: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        test: tyro.conf.FlagCreatePairsOff[bool] = False,
        workers: int | None = None,
        scales: tuple[float, ...] = (),
        overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
        mosaic: MosaicConfig = mosaics,
        settings: Annotated[ClassificationRecipe, tyro.conf.arg(name="")] = chosen,
    ) -> None:
        """Train every model of a table with the same budget and seeds; write TABLE.md, TABLE.png and TABLE.json.

        The same command goes on where it was stopped; what is finished is not run again.

        Args:
            table: core: the most telling cells of all others. search: the memory beside what it has to beat.
                token_mixer: what reads the tokens. memory: its states, reads, anchors. fusion: how local and global
                meet. placement: in which blocks. width: of the memory. tokens: how fine their grid is.
            data: As for `convneur train`. A part of the training images is held out to judge by.
            budget: tiny: minutes, to see that it works. small: hours on a CPU, a narrow M1 on 10,000 images. full: M1
                on all images for as many epochs as the recipe says.
            recipe: How every model is trained. With mosaic, on mosaics of the images: what can a model know of the far
                side of a picture?
            out: Folder for what comes out.
            only: Names of the models to run beside the local-only one; all if not given.
            seeds: Other seeds than the budget's.
            train_images: Another number of training images than the budget's; 0 for all.
            dims: Other channels of the stages than the budget's.
            depths: Other numbers of blocks of the stages than the budget's.
            test: Judge by the data's own held-out images, which are to be left alone until all is chosen.
            workers: Processes that load images; as many as suit the machine if not given.
            scales: Also judge at these multiples of the image size, for example 1.5 2.
            mosaic: What the mosaics are.
            overwrite: Remove what was written for this table, and begin anew.
            settings: The recipe's own; epochs that are given go before the budget's.
        """
        from convneur.printing import Console

        console = Console(stderr=True)
        with console.status("Loading PyTorch and Lightning"):
            from convneur.lab.ablation import AblationConfig, run_ablation
            from convneur.lab.ablation_tables import BUDGETS, REFERENCE

        changes: dict[str, Any] = {"seeds": seeds, "images": train_images, "dims": dims, "depths": depths}
        if any(word.split("=")[0] == "--epochs" for word in arguments):
            changes["epochs"] = settings.epochs
        budgeted = replace(BUDGETS[budget], **{key: value for key, value in changes.items() if value is not None})
        asked = mosaic if recipe == "mosaic" else None
        if asked is not None:
            settings = replace(settings, image_size=asked.canvas)
        config = AblationConfig(table, data, settings, budgeted, test, only, workers, asked, scales)
        done = run_ablation(config, out, overwrite, console, shlex.join(["convneur", *sys.argv[1:]]))
        if not done.rows:
            console.print(f"{REFERENCE} is still being trained by another process; that one will tell the results")
            return
        console.print(done.shown())
        table_file, picture = done.json.with_suffix(".md"), done.json.with_suffix(".png")
        console.print(f"Table: {table_file}   picture: {picture}   numbers: {done.json}")

    return ablate
