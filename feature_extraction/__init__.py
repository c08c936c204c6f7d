"""Visual features of X-LXMERT, reproducible: grid and box features of a ResNeXt-152 Faster R-CNN.

The public Python API is loaded on first use; importing this package does not import torch.
"""
