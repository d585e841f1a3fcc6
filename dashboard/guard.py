"""The adapter of `ract.dashboard.access` to tornado: it stands before a whole HTTP application.

It takes the application's place in the HTTP server, so it sees every request once its headers are
there: pages, websockets, static files, Dask's own routes, and routes that anybody adds later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tornado import httputil

from ract.dashboard.access import Access, Answer, Asked

Prepare = Callable[[str], Awaitable[None] | None]


class Guard(httputil.HTTPServerConnectionDelegate):
    """Passes to ``application`` what ``access`` allows.

    Args:
        application: The tornado application that was there.
        access: Decides.
        prepare: Called with the path of each allowed request, which waits for what it returns.
    """

    def __init__(
        self,
        application: httputil.HTTPServerConnectionDelegate,
        access: Access,
        prepare: Prepare = lambda path: None,
    ) -> None:
        self.application = application
        self.access = access
        self.prepare = prepare

    def start_request(self, server_conn: object, request_conn: Any) -> httputil.HTTPMessageDelegate:
        """Called by tornado for each request on a connection."""
        return _Request(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Called by tornado when a connection is gone."""
        self.application.on_close(server_conn)


class _Request(httputil.HTTPMessageDelegate):
    """One request: judged when its headers are there, then a pipe to the application."""

    def __init__(self, guard: Guard, server_conn: object, request_conn: Any) -> None:
        self._guard = guard
        self._server_conn = server_conn
        self._conn = request_conn
        #: The application's delegate; None until the request has passed.
        self._inner: httputil.HTTPMessageDelegate | None = None

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, httputil.RequestStartLine)
        asked = Asked(
            start_line.method,
            start_line.path,
            # Repeated ones are joined by ","; only those of cookies mean the same then as apart.
            {
                name.lower(): (";" if name.lower() == "cookie" else ",").join(
                    headers.get_list(name)
                )
                for name in headers
            },
            self._local_address(),
        )
        answer = self._guard.access.judge(asked)
        if answer is not None:
            self._answer(answer, with_body=start_line.method != "HEAD")
            return None
        waiting = self._guard.prepare(start_line.path.partition("?")[0])
        if waiting is None:
            return self._pass(start_line, headers)
        return self._pass_after(waiting, start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk) if self._inner is not None else None

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()

    def _pass(
        self, start_line: httputil.RequestStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        self._inner = self._guard.application.start_request(self._server_conn, self._conn)
        return self._inner.headers_received(start_line, headers)

    async def _pass_after(
        self,
        waiting: Awaitable[None],
        start_line: httputil.RequestStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        await waiting
        further = self._pass(start_line, headers)
        if further is not None:
            await further

    def _local_address(self) -> str:
        stream = getattr(self._conn, "stream", None)
        sock = getattr(stream, "socket", None)
        try:
            return str(sock.getsockname()[0]) if sock is not None else ""
        except OSError:  # closed meanwhile
            return ""

    def _answer(self, answer: Answer, with_body: bool) -> None:
        """Answer at once; tornado then drops the body and closes the connection."""
        body = f"{answer.reason}\n".encode() if answer.reason else b""
        headers = httputil.HTTPHeaders(
            {
                "Content-Type": "text/plain; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Connection": "close",
                **answer.headers,
            }
        )
        line = httputil.ResponseStartLine(
            "HTTP/1.1", answer.status, httputil.responses.get(answer.status, "")
        )
        self._conn.write_headers(line, headers, body if with_body else b"")
        self._conn.finish()
