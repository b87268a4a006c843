"""``convneur push``: a trained model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def push(
    model: Annotated[Path, tyro.conf.Positional],
    repository: Annotated[str, tyro.conf.Positional],
    private: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Upload a model, its preprocessing, class names and card; timm loads it as hf-hub:USER/NAME.

    Args:
        model: Folder of a run or model.
        repository: USER/NAME on the hub; created if it does not exist. Log in first with `hf auth login`.
        private: Create it for yourself only.
    """
    from convneur.printing import Console
    from convneur.tasks.push import push as upload

    done = upload(model, repository, private)
    how = f"load it with timm.create_model('hf-hub:{done.repository}', pretrained=True)"
    if not done.for_timm:
        how = "download it, then give its folder to convneur eval and predict"
    Console().print(f"Uploaded to {done.url}; {how}")
