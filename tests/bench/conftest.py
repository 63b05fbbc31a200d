"""The bench is a folder of scripts, not a package: its folder goes where python puts it when one of them is run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
