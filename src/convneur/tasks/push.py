"""Models of every task on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from convneur.files import StrPath
from convneur.models import load_model
from convneur.printing import status
from convneur.python_calls import python_call
from convneur.tasks.saved import find_model


class Pushed(NamedTuple):
    """Where a model is on the hub, its name there, and whether timm can load it, as it can classifiers alone."""

    url: str
    repository: str
    for_timm: bool


@python_call()
def push(model: StrPath, repository: str, private: bool = False, progress: bool = True) -> Pushed:
    """Upload a model, its preprocessing, class names and card.

    It is loaded first, so that none is sent that nobody can load.

    Args:
        model: Folder of a run or model of any task.
        repository: USER/NAME; created if it does not exist.
        private: Create it for yourself only.
        progress: Say on the terminal what is done.

    Raises:
        FileNotFoundError: If the folder holds no whole model.
        ValueError: If the model cannot be loaded.
        OSError: If the hub does not take it; one line with its reason.
    """
    from huggingface_hub import HfApi

    folder = Path(model)
    folder = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{model} lacks {missing[0]}; give the folder of a run that has finished, or of a model"
        )
    with status("Loading the model", progress):
        for_timm = _load(folder)
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
    return Pushed(str(url), url.repo_id, for_timm)


def _load(folder: Path) -> bool:
    """Whether a model that can be loaded is one of timm; the others need further packages."""
    if find_model(folder, "detector") is not None:
        from convneur.tasks.detection.saved import load_detector

        load_detector(folder)
    elif find_model(folder, "segmenter") is not None:
        from convneur.tasks.segmentation.saved import load_segmenter

        load_segmenter(folder)
    else:
        load_model(folder)
        return True
    return False
