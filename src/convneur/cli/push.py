"""``convneur push``: a trained model to the Hugging Face hub."""

from __future__ import annotations

import json
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

    folder = model / "model" if (model / "model" / "config.json").is_file() else model
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{model} lacks {missing[0]}; give the folder of a run that has finished, or of a model"
        )
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
    if "architecture" not in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        how = "download it, then give its folder to convneur eval and predict"  # no model of timm
    Console().print(f"Uploaded to {url}; {how}")
