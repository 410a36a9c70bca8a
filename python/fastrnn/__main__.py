"""python -m fastrnn: the same as the command fastrnn."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
