"""The causes that a verdict can name. Standard library only."""

from __future__ import annotations

from enum import Enum


class Cause(Enum):
    """Why features differ; the value completes "they ...", of the published features against ours."""

    RGB = "were made of RGB where the network wants BGR (or the other way round)"
    SCALE = "were made of pixels with another mean or scale"
    RESIZE = "were made of images resized in another way (not floored to multiples of 32, or other interpolation)"
    PADDING = "were made in batches padded to a common size"
    PRECISION = "were made in TF32 or half precision"
    EXIF = "were made of images turned as their EXIF orientation says"
    DECODER = "were made of pixels of another image decoder"
    NMS = "were made with suppression at IoU >= threshold, as the original's CPU code does"
    CLIP = "have boxes clipped to the image, without its padding"
    FC7 = "are fc7, not fc6"
    CHECKPOINT = "were made with another checkpoint"
    OTHER_IMAGE = "hold other images under the same ids"
