"""Numbers in, plan out."""

from coordinator.planner.make import make_plan

__all__ = ["make_plan"]
