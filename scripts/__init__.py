"""The kit's further programs, run as modules: ``python -m scripts.NAME``."""

import sys

from feature_extraction.terminal import tell_lacking

if sys.argv[:1] == ["-m"]:  # Python's own word while it looks for the module that it is to run
    sys.excepthook = tell_lacking
