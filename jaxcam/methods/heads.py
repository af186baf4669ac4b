"""Which heads a method is defined for, where these are not all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class DefinedFor(NamedTuple):
    """The heads that a method is defined for, and how one tells.

    Attributes:
      kind: the heads, in words.
      diagnostic: the name of the diagnostic that says how far a head is from being one; None where the program alone
        tells, and the function raises.
      at_most: how far it may be.
      instead: methods for other heads.
    """

    kind: str
    diagnostic: str | None
    at_most: float
    instead: str

    def why_not(self, diagnostics: Mapping[str, Any]) -> str | None:
        """How far a head is from being one, by the diagnostics of one map or more; None where it is one."""
        if self.diagnostic is None or (deviation := float(diagnostics[self.diagnostic].max())) <= self.at_most:
            return None
        return "its slopes are not finite" if math.isnan(deviation) else f"by {deviation:.2g} relative"


#: What CAM of 2016 is for.
GAP_LINEAR = DefinedFor(
    "a global average pool followed by one linear layer", "not_gap_linear", 1e-4, "lift_cam or grad_cam"
)
#: What is made of the weights of attentions.
ATTENTION = DefinedFor(
    "networks with attention over the positions of the layer", None, 0.0, "grad_cam or hires_lift_cam"
)
