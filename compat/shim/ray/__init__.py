"""``ray`` for processes that a ported program starts: see `ract.compat.ray`."""

import importlib
import sys

importlib.import_module("ract.compat.ray")
sys.modules.pop("ray", None)
importlib.import_module("ray")  # this time by the finder; the import system takes that one
