"""``convneur ablate``: a table of models that differ in one thing, trained alike and measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from convneur_command.running import recipe_named
from convneur_options.classification import MOSAIC, RECIPES, ClassificationRecipe
from convneur_options.mosaic import MosaicConfig

if TYPE_CHECKING:
    from convneur.lab.ablation import AblationConfig

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
            table: core: the most telling cells of all others. search: candidates for another memory. token_mixer: what
                reads the tokens. memory: its states, reads, anchors. fusion: how local and global meet. placement: in
                which blocks. width: of the memory. tokens: how fine their grid is.
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
        from convneur.outputs import OutputFolder
        from convneur.printing import Console

        console = Console(stderr=True)
        with OutputFolder(out, "ablate", overwrite, table, wait=10):
            pass  # what cannot be written to is better known now
        with console.status("Loading PyTorch and Lightning"):
            from convneur.interrupts import stopped
            from convneur.lab.ablation import BUDGETS, AblationConfig, train_cells
            from convneur.training.callbacks import Interrupted

        wanted = {"seeds": seeds, "images": train_images, "dims": dims, "depths": depths}
        if any(word.split("=")[0] == "--epochs" for word in arguments):
            wanted["epochs"] = settings.epochs
        changed: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
        budgeted, asked = replace(BUDGETS[budget], **changed), mosaic if recipe == "mosaic" else None
        if asked is not None:
            settings = replace(settings, image_size=asked.canvas)
        config = AblationConfig(table, data, settings, budgeted, test, only, workers, asked, scales)
        path = out / f"{table}.json"
        try:
            results = train_cells(config, path, console, overwrite)
        except Interrupted as stop:
            raise stopped(stop.number, "stopped; the same command goes on from here") from stop
        _tell(config, results, path, console)

    return ablate


def _tell(config: AblationConfig, results: dict[str, Any], path: Path, console: Any) -> None:
    """Measure the models side by side, and write everything."""
    import shlex
    import sys

    from convneur.files import replace_file, write_atomic
    from convneur.lab.ablation import REFERENCE, keep
    from convneur.lab.ablation_report import HEAD, cells_of, markdown, mean_by, picture, rows_of
    from convneur.printing import Table, box, markdown_code
    from convneur.reports.page import versions

    trained = {run["cell"] for run in results["runs"]}  # by this command or an earlier one
    if REFERENCE not in trained:
        console.print(f"{REFERENCE} is still being trained by another process; that one will tell the results")
        return
    with console.status("Measuring"):
        costs = _costs(config, trained, results["runs"][0]["classes"])
    command = shlex.join(["convneur", *sys.argv[1:]])
    results = keep(config, path, costs=costs, versions=versions(), command=command)
    rows = rows_of(results["runs"], results["costs"])
    run = results["runs"][0]
    what = "images of {classes} classes".format(**run)
    if config.mosaic is not None:
        what = "photographs in mosaics: {task}, {canvas} px, tiles of {tile} px, distance {distance}".format(
            **vars(config.mosaic)
        )
    lead = (
        f"{markdown_code(results['command'])}: {run['train_images']:,} training {what}, judged by "
        f"{run['val_images']:,}{' test images' if config.test else ' held out from the training images'}, "
        f"{len(run['curve'])} epochs. {', '.join(f'{key} {value}' for key, value in results['versions'].items())}."
    )
    write_atomic(path.with_suffix(".md"), markdown(rows, lead, mean_by("by_size", results["runs"])))
    with replace_file(path.with_suffix(".png")) as fresh:
        picture(rows, mean_by("by_distance", results["runs"])).savefig(fresh, dpi=130)
    shown = Table(*HEAD, title=f"Ablation: {config.table}", box=box.SIMPLE)
    for row in rows:
        shown.add_row(*cells_of(row))
    console.print(shown)
    console.print(f"Table: {path.with_suffix('.md')}   picture: {path.with_suffix('.png')}   numbers: {path}")


def _costs(
    config: AblationConfig, trained: set[str], classes: int, batch_size: int = 32
) -> dict[str, dict[str, float]]:
    """Parameters, MACs and relative times of the cells that were trained, on the device that the recipe trains on."""
    from functools import partial

    import torch

    from convneur.bench import count_cost, inference_step, seconds_in_turn, training_step
    from convneur.devices import device_for
    from convneur.lab.ablation import REFERENCE
    from convneur.models import create_model

    size, device = config.recipe.image_size, device_for(config.recipe.fit.accelerator)
    images = torch.randn(batch_size, 3, size, size, device=device)
    build = {
        name: partial(create_model, "convneur_m1", num_classes=classes, **backbone.arguments())
        for name, backbone in replace(config, only=()).cells().items()
        if name in trained
    }
    models = {name: make().to(device) for name, make in build.items()}
    # Training first, as it warms up what inference needs, too.
    training = seconds_in_turn({name: training_step(m, images) for name, m in models.items()}, device)
    inference = seconds_in_turn({name: inference_step(m, images) for name, m in models.items()}, device)
    costs = {}
    for name, make in build.items():
        cost = count_cost(make, size)
        costs[name] = {
            "params": cost.params,
            "macs": cost.macs,
            "inference": inference[name] / inference[REFERENCE],
            "training": training[name] / training[REFERENCE],
            "inference_seconds": inference[name],
            "training_seconds": training[name],
        }
    return costs
