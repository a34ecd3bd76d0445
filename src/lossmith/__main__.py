"""`python -m lossmith`: the command line where no console script is installed."""

import sys

from lossmith.cli import main

if __name__ == "__main__":
    sys.exit(main())
