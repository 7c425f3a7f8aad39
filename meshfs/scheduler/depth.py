"""Provisional: replaced by the adaptive control."""

from meshfs import limits
from meshfs.scheduler.window import Window


class DepthControl:
    def __init__(self, depth_max: int = limits.DISK_DEPTH_MAX) -> None:
        self.depth = depth_max

    def learn(self, window: Window, cost_s: float) -> None:
        return None
