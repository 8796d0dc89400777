"""``python -m clipkit``."""

from __future__ import annotations

import sys

from clipkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
