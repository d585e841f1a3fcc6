"""``ray._private.gcs_utils``: the numbers of states in Ray's tables."""

from ract.compat.ported.core.generated.gcs_pb2 import (
    ActorTableData,
    GcsNodeInfo,
    PlacementGroupTableData,
)

__all__ = ["ActorTableData", "GcsNodeInfo", "PlacementGroupTableData"]
