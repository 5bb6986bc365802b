"""The package itself: what importing it costs and sets."""

import os
import subprocess
import sys

import pytest

import minillava
from minillava import checkpoints


def test_import_is_light_and_sets_the_wait_policy():
    code = (
        "import sys, os, minillava\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr


def test_load_at_the_top():
    assert minillava.load is checkpoints.load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        minillava.lod  # noqa: B018
