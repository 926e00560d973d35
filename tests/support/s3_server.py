"""An S3 service for tests: moto's, in a process of its own, that ends with the one that started it.

Run as a module it serves, tells its port on stdout, and ends when stdin does.
Two things that real services do are added to moto: a body that breaks off is
never stored, and conditional writes happen one at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import tests

ACCESS_KEY = "AKIAENTREPOTTEST"
SECRET_KEY = "not/so+secret"
BUCKET = "images"

_ROOT = Path(tests.__file__).resolve().parent.parent


@contextmanager
def running() -> Iterator[str]:
    """A fresh service; its URL names key, secret and bucket."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.s3_server"],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"http://{ACCESS_KEY}:{SECRET_KEY.replace('/', '%2F')}@127.0.0.1:{port}/{BUCKET}"
        finally:
            process.stdin.close()
            process.wait(timeout=20)


class Careful:
    """Moto behind what a real service makes sure of."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._one_at_a_time = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        announced = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(announced) if announced else b""
        if len(body) < announced:
            start("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        environ["wsgi.input"] = BytesIO(body)
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self._application(environ, start)
        with self._one_at_a_time:
            return self._application(environ, start)


def serve() -> None:
    """Serve until stdin ends."""
    os.environ["MOTO_S3_DEFAULT_KEY_BUFFER_SIZE"] = str(1 << 30)  # bytes that moto keeps in memory, not in files
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = Careful(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
