"""Labelled pictures of hands without a photo: poses, shapes, cameras, skin, light, backgrounds."""

from .generator import SyntheticBatch, generate
from .random import SampleRandom

__all__ = ["SampleRandom", "SyntheticBatch", "generate"]
