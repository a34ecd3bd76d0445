"""The command line. Thin: it parses, calls the library, prints.

Results go to standard output, progress and messages to standard error. Whatever needs torch is imported inside the
commands, so that `lossmith --help` answers at once.
"""

from lossmith.cli.entry import main

__all__ = ["main"]
