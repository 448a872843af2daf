"""The short form of bench/chaos.py, each placement by itself: nothing is wrong, nothing fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rejoinder.envoy.module import library
from rejoinder.xds.translate import Placement

SCRIPT = Path(__file__).parent.parent / "bench" / "chaos.py"


@pytest.mark.parametrize("placement", Placement, ids=lambda placement: placement.value)
def test_every_answer_is_one_of_those_that_the_rules_ask_for(placement: Placement) -> None:
    if placement is Placement.MODULE and not library.LIBRARY.is_file():
        pytest.skip("the module was not compiled")
    command = [sys.executable, str(SCRIPT), "--minutes", "0.6", "--placement", placement.value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
