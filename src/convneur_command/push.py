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
    from huggingface_hub import HfApi

    from convneur.printing import Console

    console = Console(stderr=True)
    folder = model / "model" if (model / "model" / "config.json").is_file() else model
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{model} lacks {missing[0]}; give the folder of a run that has finished, or of a model"
        )
    with console.status("Loading the model"):
        kind = _load(folder)
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=str(folder),
            allow_patterns=["config.json", "model.safetensors", "README.md"],
            commit_message="Upload model",
        )
    except Exception as error:  # no network, no token, no right, no such name: one line each
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"could not upload to {repository} ({reason}); check the name, the network and `hf auth login`"
        ) from error
    how = f"load it with timm.create_model('hf-hub:{url.repo_id}', pretrained=True)"
    if kind != "classifier":
        how = "download it, then give its folder to convneur eval and predict"  # no model of timm
    Console().print(f"Uploaded to {url}; {how}")


def _load(folder: Path) -> str:
    """Load a model, so that none is sent that nobody can load; what kind it is."""
    from convneur.models import load_model
    from convneur.tasks.saved import find_model

    if find_model(folder, "detector") is not None:
        from convneur.tasks.detection.saved import load_detector

        load_detector(folder)
        return "detector"
    if find_model(folder, "segmenter") is not None:
        from convneur.tasks.segmentation.saved import load_segmenter

        load_segmenter(folder)
        return "segmenter"
    load_model(folder)
    return "classifier"
