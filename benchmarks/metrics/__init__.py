"""Metrics as pure functions of arrays. A leaf: it imports nothing else of Proctor.

Importing this before NumPy makes NumPy sort about six times faster on AMD's Zen 4, where nearly all the time of the
pixel metrics goes. There NumPy takes its AVX-512 sort, whose compress-store instruction Zen 4 runs in microcode
(numpy/x86-simd-sort issue 6, numpy/numpy pull request 32690); with AVX-512 switched off it takes its AVX2 sort. After
NumPy is loaded, or where the user has set the variable, this does nothing. No metric's value depends on it.
"""

import os
import sys
from pathlib import Path


def _is_zen_4() -> bool:
    """Whether Linux reports AMD family 25 with AVX-512: Zen 3, of the same family, has none."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    return "AuthenticAMD" in text and "cpu family\t: 25\n" in text and " avx512f " in text


if "numpy" not in sys.modules and "NPY_DISABLE_CPU_FEATURES" not in os.environ and _is_zen_4():
    os.environ["NPY_DISABLE_CPU_FEATURES"] = "X86_V4 AVX512_ICL"
