from __future__ import annotations

from pathlib import Path

import pytest

from tests.bulk.catalogue import Catalogue


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path)
