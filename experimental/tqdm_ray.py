"""Progress bars of tasks, drawn by the driver."""

from ract.util.tqdm import instance, safe_print, tqdm

__all__ = ["instance", "safe_print", "tqdm"]
