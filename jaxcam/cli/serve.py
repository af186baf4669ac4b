"""`jaxcam serve`."""

from __future__ import annotations

import argparse
from typing import Any

from jaxcam.cli import networks
from jaxcam.errors import JaxcamError

#: Addresses of this machine alone.
_LOCAL = ("127.0.0.1", "localhost")


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    p = commands.add_parser(
        "serve", help="a page to try it: drop a photo, see maps", allow_abbrev=False,
        description="Serves a page on this machine: drop a photo, choose network, method, layer and classes, and see "
        "maps, numbers and the code that makes them. Needs pip install 'jaxcam-xai[serve]'.",
    )  # fmt: skip
    networks.add_options(p)
    p.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1, this machine only)"
    )
    p.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0 for a free one")
    p.add_argument(
        "--name", action="append", default=[], metavar="HOST", help="a further name that the page is reached by, such "
        "as the machine's own; needed where --host is not this machine only",
    )  # fmt: skip
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command until it is interrupted."""
    try:
        import uvicorn

        from jaxcam.serve.app import app
    except ImportError as e:
        raise JaxcamError(f"the page needs {e.name}: pip install 'jaxcam-xai[serve]'") from None
    from jaxcam.zoo.load import bundled, load

    if not 0 <= options.port < 1 << 16:
        raise JaxcamError(f"a port is a number from 0 to 65535, not {options.port}")
    if options.host not in _LOCAL and not options.name:
        raise JaxcamError(f"--host {options.host} lets others in: say by --name what they call this machine")
    networks.keep(options)
    chosen = networks.load(options)
    offered = {chosen.name: chosen, **{name: load(name) for name in bundled() if name != chosen.name}}
    names = (*_LOCAL, *options.name)
    server = uvicorn.Server(
        uvicorn.Config(app(offered, hosts=names), host=options.host, port=options.port, log_level="warning",
                       server_header=False, timeout_keep_alive=5, limit_concurrency=32)
    )  # fmt: skip
    try:
        listening = server.config.bind_socket()
        listening.listen()  # before the line below: whoever reads it may ask
    except (OSError, SystemExit):
        raise JaxcamError(f"{options.host}:{options.port} cannot be listened on; give another --port") from None
    print(f"http://{options.host}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listening])
    return 0
