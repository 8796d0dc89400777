"""A web server on this machine that behaves as badly as it is told to."""

from __future__ import annotations

import gzip
import io
import re
import socket
import struct
import tarfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from clipkit.data import unpack_skips


def shard(samples=40, size=3_000):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(samples):
            for name, data in ((f"{i:03}.jpg", i.to_bytes(2, "big") * size), (f"{i:03}.txt", b"thing %d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def braced(addresses):
    """One pattern of addresses of a server."""
    root = addresses[0][: addresses[0].index("/", len("http://")) + 1]
    return f"{root}{{{','.join(address.removeprefix(root) for address in addresses)}}}"


def read_epoch(data):
    """The rows that the batches of a data module hold, and (folder/file, reason) of what was skipped."""
    batches = list(data.train_dataloader())
    skips = {("/".join(one.source.rsplit("/", 2)[1:]), one.reason) for batch in batches
             for one in unpack_skips(batch.extra["skipped"])}  # fmt: skip
    return {row for batch in batches for row in batch.concept.tolist()}, skips


DATA = shard()


class Handler(BaseHTTPRequestHandler):
    """The first folder of a path says how it behaves; its content is ``DATA`` where the server has no other.

    One called ``dying-...`` is fine until the server is dead.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        """As honest as a GET: what is refused there is refused here."""
        path = self.path_and_data()
        refused = {"missing": 404, "forbidden": 403, "gone": 410, "broken": 500}.get(path.split("/")[1])
        if not refused:
            return self.answer(200, {"Content-Length": len(self.data)})
        with self.server.lock:
            self.server.gets.setdefault(path, []).append(0)
        return self.fail(refused)

    def path_and_data(self):
        path = urlsplit(self.path).path
        self.data = self.server.files.get(path, DATA)
        self.half, self.quarter = len(self.data) // 2, len(self.data) // 4
        return path

    def do_GET(self):
        path = self.path_and_data()
        begin = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        end = int(found[1]) + 1 if (found := re.search(r"-(\d+)$", self.headers.get("Range", ""))) else len(self.data)
        with self.server.lock:
            self.server.gets.setdefault(path, []).append(begin)
        self.begin, self.end, self.number = begin, end, len(self.server.gets[path])
        behaviour = path.split("/")[1]
        if behaviour.startswith("dying-"):
            behaviour = behaviour.removeprefix("dying-") if self.server.dead.is_set() else "fine"
        getattr(self, behaviour)()

    def answer(self, status, headers):
        self.send_response(status)
        defaults = {"ETag": '"one"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        for name, value in (defaults | headers).items():
            self.send_header(name, str(value))
        self.end_headers()

    def send(self, count=None, ranges=True, **headers):
        """The bytes asked for, at most ``count`` of them though all are announced."""
        begin, end = (self.begin, self.end) if ranges else (0, len(self.data))
        if ranges and "Range" in self.headers:
            told = {"Content-Range": f"bytes {begin}-{end - 1}/{len(self.data)}", "Content-Length": end - begin}
            self.answer(206, told | headers)
        else:
            self.answer(200, {"Content-Length": end - begin} | headers)
        with self.server.lock:
            self.server.sent[urlsplit(self.path).path] += len(self.data[begin:end][:count])
        self.wfile.write(self.data[begin:end][:count])
        self.wfile.flush()
        self.close_connection = count is not None

    def fail(self, status):
        self.answer(status, {"Content-Length": 0})

    def reset(self):
        if self.number <= 2:
            self.send(self.quarter)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.send()

    def fine(self):
        self.send()

    def plain(self):
        self.send(ranges=False)

    def plaincut(self):
        self.send(self.quarter * self.number if self.number < 3 else None, ranges=False)

    def plainstop(self):
        self.send(self.half, ranges=False)

    def cut(self):
        self.send(self.quarter)

    def cutonce(self):
        self.send(self.quarter if self.number == 1 else None)

    def stop(self):
        self.send(max(self.half - self.begin, 0))

    def stall(self):
        self.send(self.half if self.number == 1 else None)
        self.server.over.wait(60 if self.number == 1 else 0)

    def never(self):
        self.server.over.wait(60)

    def hangup(self):
        self.close_connection = True

    def busy(self):
        self.fail(503) if self.number <= 2 else self.send()

    def broken(self):
        self.fail(500)

    def missing(self):
        self.fail(404)

    def forbidden(self):
        self.fail(403)

    def gone(self):
        self.fail(410)

    def changed(self):
        self.send(self.half if self.number == 1 else None, ETag=f'"{self.number}"')

    def grown(self):
        total = len(self.data) + self.number
        self.send(
            self.half if self.number == 1 else None, **{"Content-Range": f"bytes {self.begin}-{total - 1}/{total}"}
        )

    def elsewhere(self):
        self.send(self.half, **{"Content-Range": f"bytes 5-{len(self.data) - 1}/{len(self.data)}"})

    def squeezed(self):
        data = gzip.compress(DATA)
        self.answer(200, {"Content-Encoding": "gzip", "Content-Length": len(data)})
        self.wfile.write(data)

    def moved(self):
        self.answer(302, {"Location": "/cut/moved.tar?secret", "Content-Length": 0})

    def chunks(self):
        """No length beforehand; the first time it breaks off."""
        self.answer(206 if self.begin else 200, {"Transfer-Encoding": "chunked", "Content-Range": self.whole()})
        for part in (self.data[self.begin : self.half], self.data[max(self.begin, self.half) :]):
            if part:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.flush()
            if self.number == 1:
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def whole(self):
        return f"bytes {self.begin}-{len(self.data) - 1}/{len(self.data)}"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args):
        super().__init__(*args)
        self.lock, self.over, self.dead = threading.Lock(), threading.Event(), threading.Event()
        self.gets, self.files = {}, {}  # path to where each request begins, to its content
        self.sent = Counter()  # bytes by path

    def handle_error(self, request, client_address):
        pass  # clients that went away
