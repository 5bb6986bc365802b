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
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])\n"
    )
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in chosen}
    theirs = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "7"}
    for given, expected in (({}, "PASSIVE 10000"), (theirs, "ACTIVE 7")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected, done.stderr


def test_load_at_the_top():
    assert minillava.load is checkpoints.load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        minillava.lod  # noqa: B018
