"""A chat server on loopback for tests: it answers as it is told, and notes what it was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """One answer: status and headers, `content` of the message, or `raw` bytes instead of a completion.

    `delay` is in seconds; `cut` closes the connection in the middle of the body.
    """

    content: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0
    cut: bool = False
    usage: tuple[int, int] = (100, 20)


class ChatServer:
    """`reply` gets the request's JSON and its number, from 0. `requests` and `most_at_once` are for assertions."""

    def __init__(self, reply: Callable[[dict, int], Reply]):
        self.reply = reply
        self.requests: list[dict] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    number = len(server.requests)
                    server.requests.append(asked)
                    server.times.append(time.monotonic())
                    server.keys.append(self.headers["Authorization"])
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    reply = server.reply(asked, number)
                    time.sleep(reply.delay)
                finally:
                    with server.lock:
                        server.at_once -= 1
                self._send(reply)

            def _send(self, reply: Reply):
                body = reply.raw if reply.raw is not None else json.dumps(completion(reply)).encode()
                try:
                    self.send_response(reply.status)
                    for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2] if reply.cut else body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client did not wait

            def log_message(self, *_):
                pass

        return Handler


def completion(reply: Reply) -> dict:
    if reply.status != 200:
        return {"error": {"message": reply.content, "type": "error", "code": None}}
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply.content}}
    read, written = reply.usage
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message], "usage": usage}


@contextmanager
def chat_server(reply: Callable[[dict, int], Reply]) -> Iterator[ChatServer]:
    server = ChatServer(reply)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
