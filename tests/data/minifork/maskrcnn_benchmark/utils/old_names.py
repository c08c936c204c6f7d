# Written for the tests: the names that left PyTorch and numpy.
import numpy as np
import torch

try:
    from torch.hub import _download_url_to_file
except ImportError:
    from torch.utils.model_zoo import _download_url_to_file

if torch._six.PY3:
    generation = 3
else:
    generation = 2


def halves(sizes):
    return np.array(sizes, dtype=np.float) / 2


def fetch(url, path):
    _download_url_to_file(url, path, None, False)
