"""What operators see and do about nodes, and about who has reserved which."""

from gpus.admin import allocations, nodes

__all__ = ["allocations", "nodes"]
