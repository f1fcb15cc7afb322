"""``python -m whet.models.importers`` prints ``docs/formats.md``."""

import sys

from whet.models.importers.page import render

sys.stdout.write(render())
