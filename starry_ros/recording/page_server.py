"""The viewer's page, passed on with a policy under which a browser lets it talk to this machine's data and nobody else.

Left alone, the page asks the network for fonts, for newer versions, and reports its use.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOCAL = "127.0.0.1"
PASSED_ON = ("Content-Type", "Content-Length", "Content-Encoding")
FETCH_S = 30.0
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def policy(host: str, data_port: int) -> str:
    """Content-Security-Policy: everything from here; data from this port of this host alone."""
    here = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
    return f"default-src {here}; connect-src 'self' data: blob: http://{host}:{data_port}"


def asked_host(header: str | None) -> str:
    """The machine's name as the browser knows it, from a request's `Host`: no port, and nothing that ends a policy."""
    name = urllib.parse.urlsplit(f"//{header or LOCAL}").hostname or LOCAL
    shown = f"[{name}]" if ":" in name else name
    return shown if not set(shown) & set(" ;,*'") else LOCAL


@contextlib.contextmanager
def passing_on(host: str, port: int, page_host: str, page_port: int, data_port: int) -> Iterator[None]:
    """Serve on `port` what the page's own server has on `page_port` of `page_host`, under the policy.

    OSError when `port` is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                with NO_PROXY.open(f"http://{page_host}:{page_port}{self.path}", timeout=FETCH_S) as found:
                    self._answer(found.status, found.headers, found)
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.headers, error)
            except OSError:  # the browser, or the page's server, is gone
                self.close_connection = True

        def _answer(self, status: int, headers: Any, body: Any) -> None:
            self.send_response(status)
            for name in PASSED_ON:
                if headers[name]:
                    self.send_header(name, headers[name])
            if not headers["Content-Length"]:
                self.send_header("Connection", "close")
            self.send_header("Content-Security-Policy", policy(asked_host(self.headers["Host"]), data_port))
            self.end_headers()
            shutil.copyfileobj(body, self.wfile)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
