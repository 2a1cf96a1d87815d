"""`nets.monai_parts`: MONAI without the libraries that Konsil never calls."""

import subprocess
import sys

HIDDEN_THEN_NOT = """
import sys
from nets import monai_parts
loaded = [name for name in monai_parts.UNUSED if name in sys.modules]
from scipy.spatial.transform import Rotation
from scipy.signal import iirnotch
import matplotlib.pyplot
assert not loaded, loaded
assert monai_parts.NormalizeIntensity()(__import__("numpy").arange(4.0)).std() > 0.9
"""


def test_monai_loads_without_what_konsil_never_calls_and_others_can_still_import_it() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN_THEN_NOT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
