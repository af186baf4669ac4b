"""The rules of a transformation: one for each kind of primitive, and those that were registered by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxcam.transforms.primitives import VOCABULARY, describe
from jaxcam.transforms.walker import Rule, UnsupportedPrimitive


class Rules(Mapping[str, Rule]):
    """What a transformation does with a primitive, by the primitive's name.

    A rule that was registered for a name goes before the one for its kind. Lookups are made while a program is
    walked, so that a rule holds inside `jit`, `scan`, `cond` and functions with their own derivative too.

    Args:
      transformation: its name, for messages.
      by_kind: rules for the kinds of the vocabulary.
      refused: what has none though its kind has one, by name, and why; the reason is told to the user.
    """

    def __init__(self, transformation: str, by_kind: Mapping[str, Rule], refused: Mapping[str, str] | None = None):
        self.transformation = transformation
        self._by_kind = {"identity": lambda eqn, operands: list(operands)} | dict(by_kind)
        self._by_name: dict[str, Rule] = {}
        self.refused = dict(refused or {})

    def register(self, names: str, rule: Rule) -> None:
        """Gives primitives, by name (several in one string), a rule of their own.

        Args:
          names: as in `jax.make_jaxpr`'s output; the vocabulary need not know them.
          rule: `(equation, operands) -> outputs`, where operands and outputs mix the transformation's values and
            ordinary ones; at least one operand is the transformation's.
        """
        self._by_name.update(dict.fromkeys(names.split(), rule))

    def find(self, eqn: Any) -> Rule:
        """The rule for an equation.

        Raises:
          UnsupportedPrimitive: there is none; with the reason.
        """
        name = eqn.primitive.name
        if name in self._by_name:
            return self._by_name[name]
        known = describe(eqn)
        if name in self.refused or known.kind not in self._by_kind:
            raise UnsupportedPrimitive(self.transformation, eqn, self.refused.get(name, known.why))
        return self._by_kind[known.kind]

    def __getitem__(self, name: str) -> Rule:
        if name in self._by_name:
            return self._by_name[name]
        if name in self.refused:
            raise KeyError(name)
        return self._by_kind[VOCABULARY[name].kind]

    def __iter__(self) -> Iterator[str]:
        for name in dict.fromkeys([*VOCABULARY, *self._by_name]):
            if name in self._by_name or (VOCABULARY[name].kind in self._by_kind and name not in self.refused):
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)
