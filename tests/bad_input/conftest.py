"""Makes the package beside this file importable: it is also that of the program write_page.py."""

import sys
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parent)

sys.path.insert(0, FOLDER)
import matrix.page  # noqa: E402, F401

sys.path.remove(FOLDER)
