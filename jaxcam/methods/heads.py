"""Which heads a method is defined for, where these are not all."""

from __future__ import annotations

from typing import NamedTuple


class DefinedFor(NamedTuple):
    """The heads that a method is defined for, and how one tells.

    Attributes:
      kind: the heads, in words.
      diagnostic: the name of the diagnostic that says how far a head is from being one.
      at_most: how far it may be.
      instead: methods for other heads.
    """

    kind: str
    diagnostic: str
    at_most: float
    instead: str


#: What CAM of 2016 is for.
GAP_LINEAR = DefinedFor(
    "a global average pool followed by one linear layer", "not_gap_linear", 1e-4, "lift_cam or grad_cam"
)
