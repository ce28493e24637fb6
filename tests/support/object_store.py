"""An S3 server on loopback (moto), and a proxy in front of it that injects faults."""

import socket
import threading
import time
from collections import defaultdict
from contextlib import contextmanager

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>injected</Message></Error>"
STATUS = {
    "SlowDown": "503 Slow Down",
    "ServiceUnavailable": "503 Service Unavailable",
    "InternalError": "500 Internal Server Error",
    "InvalidAccessKeyId": "403 Forbidden",
    "AccessDenied": "403 Forbidden",
}


class FaultyProxy:
    """Forwards HTTP requests, one per connection, and applies faults.

    Attributes:
        faults: part of a request's first line → faults, one per request: the code of an S3 error, "reset" (before the
            answer), "cut" (in the middle of the answer), "slow" (one second before the answer) or a number of seconds.
            The last one stays if it is "forever" prefixed, such as "forever SlowDown".
        requests: first lines of all requests.
        most_at_once: the largest number of requests at a time.
    """

    def __init__(self, port):
        self.target, self.faults, self.requests = port, defaultdict(list), []
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def reset(self):
        self.faults.clear()
        self.requests.clear()
        self.at_once = self.most_at_once = 0
        self.delay = 0.0

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += (part := connection.recv(65536))
                    if not part:
                        return
                with self._lock:
                    self.at_once += 1
                    self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    self._answer(connection, head)
                finally:
                    with self._lock:
                        self.at_once -= 1
            except OSError:
                pass

    def _fault(self, line):
        with self._lock:
            self.requests.append(line)
            for part, faults in self.faults.items():
                if part in line and faults:
                    return faults[0].removeprefix("forever ") if faults[0].startswith("forever") else faults.pop(0)
        return None

    def _answer(self, connection, head):
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        headers = {line.split(b":")[0].lower(): line.split(b":", 1)[1].strip() for line in lines[1:]}
        fault = self._fault(lines[0].decode())
        if b"100-continue" in headers.get(b"expect", b""):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(body) < int(headers.get(b"content-length", 0)):
            body += connection.recv(65536)
        time.sleep(self.delay)
        if fault == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if fault == "slow":
            time.sleep(1)
        if fault in STATUS:
            error = ERROR % fault.encode()
            start = f"HTTP/1.1 {STATUS[fault]}\r\nContent-Type: application/xml\r\nContent-Length: {len(error)}\r\n"
            connection.sendall(start.encode() + b"Connection: close\r\n\r\n" + error)
            return
        kept = [line for line in lines if not line.lower().startswith((b"connection:", b"expect:"))]
        with socket.create_connection(("127.0.0.1", self.target)) as target:
            target.sendall(b"\r\n".join([*kept, b"Connection: close"]) + b"\r\n\r\n" + body)
            answer = b""
            while part := target.recv(2**20):
                answer += part
        connection.sendall(answer[: len(answer) // 2] if fault == "cut" else answer)


@contextmanager
def object_store(patch):
    """A `FaultyProxy` in front of a new, empty S3 server; the environment points to it."""
    import logging

    import s3fs
    from moto.server import ThreadedMotoServer

    from serve.batch import stores

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = FaultyProxy(server.get_host_and_port()[1])
    for name, value in {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "no_proxy": "127.0.0.1",
    }.items():
        patch.setenv(name, value)
    stores.filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield proxy
    finally:
        stores.filesystem.cache_clear()
        proxy.close()
        server.stop()
