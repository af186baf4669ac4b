"""The one exception that means "the user can mend this"; the command line prints it as one line."""

from __future__ import annotations

import contextlib
import difflib
import os
import traceback
import unicodedata
from collections.abc import Collection, Iterable, Iterator


def visible(text: object) -> str:
    """A text from outside as it may be shown: on one line, and nothing in it that a terminal would obey.

    Control characters, line ends, marks that turn the direction of text, and what is no character at all (bytes of a
    file name) become their codes. Joiners, which letters and emoji need, and wide spaces stay.
    """
    return "".join(c if c.isprintable() or _harmless(c) else c.encode("unicode_escape").decode() for c in str(text))


def _harmless(character: str) -> bool:
    return character in "\u200c\u200d" or unicodedata.category(character) == "Zs"


#: How like a name is to one that may have been meant.
_NEAR = 0.65
#: Files of this library and of Python's begin like this.
_LIBRARIES = (os.path.dirname(__file__) + os.sep, os.path.dirname(os.__file__) + os.sep, "<frozen")
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

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the caller's own lines and the message, not the way through this library."""
        frames = traceback.extract_tb(self.__traceback__)
        own = [f for f in frames if not f.filename.startswith(_LIBRARIES) and "site-packages" not in f.filename]
        lines = [f"line {f.lineno}{'' if f.name == '<module>' else ' in ' + f.name}: {f.line}" for f in own]
        return [*lines, f"{type(self).__name__}: {self}"]


def unknown(kind: str, name: object, known: Iterable[str], *, listed: str = "") -> JaxcamError:
    """The error for a name that is not among `known`, with those that it is a part of, or else the nearest ones.

    Args:
      kind: what the name was meant to be: "method", "layer", "class" ...
      name: what was asked for.
      known: every name there is; named in full where there are at most 30.
      listed: where more of them are listed.
    """
    known, asked = [str(k) for k in known], str(name).lower()
    lowered = {k.lower(): k for k in reversed(known)}
    near = [k for k in known if len(asked) > 2 and asked in k.lower()][:8]
    near = near or [lowered[n] for n in difflib.get_close_matches(asked, list(lowered), n=3, cutoff=_NEAR)]
    if near:
        hint = "; did you mean " + " or ".join(near) + "?"
    elif len(known) <= 30:
        hint = "; there are: " + ", ".join(known)
    else:
        hint = f"; there are {len(known)}, for example {', '.join(known[:5])}" + (f"; {listed}" if listed else "")
    return JaxcamError(f"no {kind} called {str(name)!r}{hint}")


def check_known(kind: str, name: object, known: Collection[str]) -> None:
    """Raises the error of `unknown` unless a name is among `known`."""
    if name not in known:
        raise unknown(kind, name, known)


def raised(error: Exception, most: int = 200) -> str:
    """What an exception of others says, on one line, after its class."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:most]}" if text else type(error).__name__


@contextlib.contextmanager
def blaming(what: str, mend: str = "") -> Iterator[None]:
    """Makes one line of whatever code of others raises in the block: that `what` raises it, and how to mend that."""
    try:
        yield
    except (JaxcamError, MemoryError):
        raise
    except Exception as error:
        raise JaxcamError(f"{what} raises {raised(error)}{mend and '; '}{mend}") from error
