"""The HTTP server of the metrics, for whoever can reach its address: so few askers at once, each with little time."""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_SCRAPES = 8  # at once; more are hung up on
SCRAPE_SECONDS = 2.0


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_SECONDS  # to send a line, or to take our answer

    def log_message(self, format: str, *args: Any) -> None:
        """Whoever asks is counted by nobody and logged by nobody."""


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """Serves `registry` on `address` in threads of its own from start() to close(). Making it raises OSError."""

    daemon_threads = True
    request_queue_size = 64  # with socketserver's 5 a burst of askers waits for its SYNs to be sent again

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry) -> None:
        infos = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, bound = infos[0][0], infos[0][4]
        self._free = threading.BoundedSemaphore(MAX_SCRAPES)
        super().__init__((str(bound[0]), int(bound[1])), _Handler)
        self.set_app(make_wsgi_app(registry))

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Called before a thread is made; False closes the connection."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody hung up, or was too slow."""
