from __future__ import annotations

import pytest

from convneur.memory import library
from tests.memory.kernel_builders import Counted


@pytest.fixture
def counted(monkeypatch) -> Counted:
    counting = Counted(library.LIBRARY)
    monkeypatch.setattr(library, "LIBRARY", counting)
    return counting
