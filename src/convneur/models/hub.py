"""Models on disk, in the layout of the Hugging Face hub that timm loads: config.json and model.safetensors."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from timm.models import save_for_hf

from convneur.models.backbone import ConvNeur


def save_model(model: ConvNeur, folder: Path, model_args: Mapping[str, Any]) -> None:
    """Write a model so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` brings it back.

    Written beside the folder first and then moved, so that a crash never leaves half a model.

    Args:
        model: To save; it must come from `create_model`.
        folder: Replaced if it exists.
        model_args: The arguments it was created with, as JSON can hold them.

    Raises:
        OSError: If it cannot be written; what was in ``folder`` is still there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        try:
            save_for_hf(model, str(fresh), model_args=dict(model_args), safe_serialization=True)
        except SafetensorError as error:  # how safetensors reports a full or failing disk
            raise OSError(f"could not write the weights to {folder}: {error}") from error
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
