"""``python -m probgen``: the command ``probgen``."""

import sys

from probgen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
