"""What a device does with this project's work, in one table: ``make gpu-test``.

    python3 -m scripts.gpu_test [--device cuda] [--out gpu-test] [--minutes 8]

From a plain checkout, with whatever python3 has PyTorch, h5py, Pillow, OpenCV, NumPy and PyYAML; no network. Weights
are synthetic and made on the way. Prints a line per row and writes OUT/table.md, to be pasted into a README, and
OUT/results.json. Each row says pass, fail, or not run and why; exit code 1 if one failed. With --device cpu the same
rows run with little work: that exercises this program, it measures nothing.
"""

from feature_extraction import machine
from feature_extraction.terminal import run_main

if __name__ == "__main__":
    machine.wait_without_spinning()  # before PyTorch is loaded
    from .run import main

    run_main(main)
