"""`python -m resurge`: the command line."""

import sys

from resurge.cli import main

sys.exit(main())
