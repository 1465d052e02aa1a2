"""Segment one volume with one strategy, as the pipeline does."""

from pathlib import Path

from sdseg_monai.inference.strategies import Strategy


def segment_with(strategy: Strategy, path: Path):
    """Return what ``strategy`` makes of the volume file ``path``."""
    item = strategy.segmenter.prepare(path)
    return strategy.finish(item, strategy.iter_slabs(item["image"]))
