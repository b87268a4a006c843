import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the suite runs with one worker per core


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("CONVNEUR_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set CONVNEUR_DATA to a folder that has them")
    return folder
