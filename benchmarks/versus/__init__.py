"""minillava and `transformers` side by side: the same weights, data, order, optimizer and dtype.

Importing it asks every library for one thread and no network: what is compared is work, not luck.
"""

import os

QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

os.environ.update(QUIET)
