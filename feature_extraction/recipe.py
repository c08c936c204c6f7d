"""Every number that the published features and the published vocabulary depend on.

No logic lives here. Each value stands with its unit and its source:

    [scripts]   allenai/x-lxmert 561ff6e, ``feature_extraction/*.py``
    [fork]      vqa-maskrcnn-benchmark 4c168a6, the detector those scripts import
    [config]    ``detectron_config.yaml`` of ViLBERT's checkpoint; these are the published
                values, but the detector is always built from the file itself
    [faiss]     faiss 1.6.3 (the paper's time) to 1.15.1, ``ClusteringParameters``
"""

from __future__ import annotations

from typing import Final

# --- image -> network input [scripts] ----------------------------------------------------------

PIXEL_MEAN_BGR: Final = (102.9801, 115.9465, 122.7717)
"""Subtracted from 8-bit pixel values after RGB is reversed to BGR; no division by a deviation."""
SHORT_SIDE: Final = 800
"""Pixels. The short side of the resized image ..."""
LONG_SIDE: Final = 1333
"""... unless the long side would then round to more than this many pixels."""
SIZE_DIVISOR: Final = 32
"""Pixels. Both sides of the network input are multiples of the coarsest backbone stride."""

# --- regions [scripts] ---------------------------------------------------------------------------

GRID_SIZE: Final = 8
"""Cells per side of the grid."""
NUM_BOXES: Final = 36
"""Boxes kept per image."""
CLASS_NMS_IOU: Final = 0.5
"""Per-class suppression between the proposals, in pixels of the original image."""
BACKGROUND: Final = -1
"""obj_id of the background, where a recipe of the family counts it as a class."""
FEATURE_DIM: Final = 2048
"""Length of fc6 [config]."""
NUM_CLASSES: Final = 1601
"""Visual Genome's 1600 and the background, which is class 0 [config]."""

# --- detector [fork] -----------------------------------------------------------------------------

RPN_NMS_IOU: Final = 0.7
"""Suppression between the proposals of one pyramid level; on CUDA (where the published features were
made) a box goes at IoU > threshold, in the fork's CPU code at IoU >= threshold. Ours: >."""
RPN_MIN_SIDE: Final = 0.0
"""Pixels of the resized image; proposals with a smaller side are dropped."""
ANCHOR_SIZES: Final = (32, 64, 128, 256, 512)
"""Pixels of the resized image, one per pyramid level."""
ANCHOR_RATIOS: Final = (0.5, 1.0, 2.0)
"""Height / width."""
BOX_DELTA_LIMIT: Final = 1000.0 / 16.0
"""A regressed width or height grows by at most this factor."""
LEVEL_CANONICAL_SIZE: Final = 224.0
"""Pixels: a region of this side belongs to LEVEL_CANONICAL ..."""
LEVEL_CANONICAL: Final = 4
LEVEL_EPS: Final = 1e-6
"""... by floor(LEVEL_CANONICAL + log2(side / LEVEL_CANONICAL_SIZE + LEVEL_EPS)), clamped to the pyramid."""

# --- k-means [scripts, faiss] ----------------------------------------------------------------------

KMEANS_CENTROIDS: Final = 10_000
KMEANS_ITERATIONS: Final = 20
KMEANS_SEED: Final = 1234
"""The sample is drawn with this seed, the initial centroids with KMEANS_SEED + 1 [faiss]."""
KMEANS_MAX_POINTS_PER_CENTROID: Final = 256
"""More rows than this per centroid are subsampled [faiss]."""
KMEANS_MIN_POINTS_PER_CENTROID: Final = 39
"""Fewer rows than this per centroid draw a warning [faiss]."""
KMEANS_RUNS: Final = 1
"""faiss's ``nredo``: restarts of which the best is kept."""
