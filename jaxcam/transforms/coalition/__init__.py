"""The coalition game over the channels of a head, with the head's structure used."""

from jaxcam.transforms.coalition.game import CHUNK_ELEMENTS, Game, coalition_game, masked_game

__all__ = ["CHUNK_ELEMENTS", "Game", "coalition_game", "masked_game"]
