"""A web server that costs as little as one can: what is measured shares its cores.

python -m tests.bench.source PORT DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web


def main(port: int, directory: Path) -> None:
    """Serve files by sendfile until the process is ended."""
    app = web.Application()
    app.router.add_static("/", directory)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
