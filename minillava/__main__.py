"""`python -m minillava`, as `torchrun -m minillava`: the command of that name."""

import sys

from minillava.cli import main

if __name__ == "__main__":
    sys.exit(main())
