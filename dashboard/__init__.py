"""The dashboard: pages of what a cluster does, served by its scheduler (``docs/dashboard.md``)."""

from ract.dashboard.notebook import NoDashboardError, display

__all__ = ["NoDashboardError", "display"]
