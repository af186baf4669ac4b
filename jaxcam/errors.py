"""The one exception that means "the user can mend this"; the command line prints it as one line."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def visible(text: object) -> str:
    """A text from outside as it may be shown: on one line, and nothing in it that a terminal would obey.

    Control characters, line ends, marks that turn the direction of text, and what is no character at all (bytes of a
    file name) become their codes. Joiners, which letters and emoji need, and wide spaces stay.
    """
    return "".join(c if c.isprintable() or _harmless(c) else c.encode("unicode_escape").decode() for c in str(text))


def _harmless(character: str) -> bool:
    return character in "\u200c\u200d" or unicodedata.category(character) == "Zs"


#: Letters of a message; of a longer one, which some name from outside makes so long, the middle is left out.
_LONGEST = 2000


class JaxcamError(ValueError):
    """A problem with the caller's input, said in one line that names the cause and the mend.

    Names from outside may stand in it as they are: what a terminal would obey is shown as its code, and the middle of
    a name without end is left out.
    """

    def __init__(self, message: object = ""):
        text = str(message)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
        super().__init__("\n".join(map(visible, text.split("\n"))))


def unknown(kind: str, name: object, known: Iterable[str]) -> JaxcamError:
    """The error for a name that is not among `known`, with the nearest ones.

    Args:
      kind: what the name was meant to be: "method", "layer", "class" ...
      name: what was asked for.
      known: every name there is; named in full where there are at most 30.
    """
    known = [str(k) for k in known]
    lowered = {k.lower(): k for k in reversed(known)}
    near = difflib.get_close_matches(str(name).lower(), list(lowered), n=3, cutoff=0.5)
    if near:
        hint = "; did you mean " + " or ".join(lowered[n] for n in near) + "?"
    elif len(known) <= 30:
        hint = "; there are: " + ", ".join(known)
    else:
        hint = f"; there are {len(known)}, for example " + ", ".join(known[:5])
    return JaxcamError(f"no {kind} called {str(name)!r}{hint}")
