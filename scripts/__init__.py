"""The kit's further programs, run as modules: ``python -m scripts.NAME``."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (nothing has been installed yet that would know)
    sys.exit(f"this kit needs Python 3.11 or newer, not {sys.version.split()[0]}: make PYTHON=python3.12, for example")
