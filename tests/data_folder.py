"""Where tests find real data: `$RESURGE_DATA`, else `../shared/data` beside the repository."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[2] / "shared" / "data"


def data_folder(*names: str) -> Path:
    """The data folder with the files `names` in it; the test that asks is skipped if one is not there."""
    folder = Path(os.environ.get("RESURGE_DATA") or _BESIDE)
    for name in names or ("",):
        if not (folder / name).exists():
            pytest.skip(f"{folder / name} is not here: set RESURGE_DATA")
    return folder
