"""How `pytest --nbval` runs the notebooks: offline, on one thread, in this very environment.

nbval compares a cell's new output with the committed one. A cell that was never executed has none and
would pass whatever it prints; tests/test_environment.py fails on those.
"""

import os

# Before anything imports torch; the notebooks' kernels inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("MPLBACKEND", None)  # a terminal's choice would keep figures out of the notebooks

CELL_TIMEOUT = 300
NBVAL_TIMEOUT = 2000


def pytest_configure(config):
    option = config.option
    option.nbval_current_env = not option.nbval_kernel_name  # not a kernel of another installation
    if option.nbval_cell_timeout == NBVAL_TIMEOUT:  # nbval's own default; one may still ask for more
        option.nbval_cell_timeout = CELL_TIMEOUT


def pytest_collectstart(collector):
    """Leave stderr out of the comparison: progress bars and warnings hold times, pids and paths."""
    if collector.path is not None and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr",)
