"""``python -m rkd_pipeline.cli`` is ``rkd``."""

import sys

from rkd_pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
