"""minillava: LLaVA-1.5, small enough to read and to train in one sitting.

>>> import minillava
>>> model = minillava.load("tiny")
>>> model.answer("picture.png", "What is in the picture?")
>>> minillava.inspect(record, model)  # what a record teaches, in color
"""

import os

# Before torch is imported, or they have no effect. libgomp's idle threads spin by default: on a busy
# two-core machine that turned 3.6 s into 57 s for a model as small as ours. Asleep at once, they are late for
# the next of our many small operations; spinning for some microseconds first, two threads are 1.75 times as
# fast as one in stage 2, not 1.43.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["inspect", "load"]


def __getattr__(name: str):
    """`load` and `inspect`, imported when they are first asked for: torch takes seconds to import."""
    if name == "load":
        from minillava.checkpoints import load

        return load
    if name == "inspect":
        from minillava.inspection import inspect

        return inspect
    raise AttributeError(f"module 'minillava' has no attribute {name!r}")
