"""The coalition game over the channels of a head, with the head's structure used; its rules are open to yours."""

from jaxcam.transforms.coalition.game import Game, chunk_elements, coalition_game, masked_game
from jaxcam.transforms.coalition.lazy import Additive, Diagonal
from jaxcam.transforms.coalition.tables import RULES, affine, elementwise, moves, register, sums, within_channels

__all__ = [
    "RULES", "Additive", "Diagonal", "Game", "affine", "chunk_elements", "coalition_game", "elementwise",
    "masked_game", "moves", "register", "sums", "within_channels",
]  # fmt: skip
