"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest

REAL_DATA = Path(os.environ.get("DDEVAL_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data; the test is skipped by name where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real data not found at {REAL_DATA} (set DDEVAL_REAL_DATA)")
    return REAL_DATA
