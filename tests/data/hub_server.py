"""A stand-in of the hub on this machine: what its clients ask of data sets, and no more."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self.file(*found.groups())
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            return self.about(found[1])
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path):
            return self.tree(found[1], found[2], parse_qs(urlsplit(self.path).query))
        return self.missing("EntryNotFound")

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", path)
        if found is None or found[1] not in self.server.sets:
            return self.missing("RepoNotFound")
        told = json.loads(body) if body[:1] == b"{" else parse_qs(body.decode())
        return self.json([one for name in told["paths"] if (one := self.entry(found[1], name))])

    def about(self, name):
        if name not in self.server.sets:
            return self.missing("RepoNotFound")
        siblings = [{"rfilename": file} for file in sorted(self.server.sets[name])]
        return self.json({"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def entry(self, name, path):
        files = self.server.sets[name]
        if path in files:
            oid = hashlib.sha1(files[path]).hexdigest()
            return {"type": "file", "path": path, "size": len(files[path]), "oid": oid}
        if any(file.startswith(f"{path}/") for file in files):
            return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        return None

    def tree(self, name, folder, query):
        if name not in self.server.sets:
            return self.missing("RepoNotFound")
        begin = f"{folder}/" if folder else ""
        below = [file for file in sorted(self.server.sets[name]) if file.startswith(begin)]
        folders = {begin + "/".join(file[len(begin) :].split("/")[:depth])
                   for file in below for depth in range(1, file[len(begin) :].count("/") + 1)}  # fmt: skip
        names = [*below, *sorted(folders)]
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            names = [one for one in names if "/" not in one[len(begin) :]]
        return self.json([self.entry(name, one) for one in names]) if names else self.missing("EntryNotFound")

    def file(self, name, path):
        data = self.server.sets.get(name, {}).get(path)
        if data is None:
            return self.missing("EntryNotFound")
        found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(found[1]), int(found[2] or len(data) - 1) + 1) if found else (0, len(data))
        part = data[begin:end]
        self.send_response(206 if found else 200)
        told = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Content-Length": len(part)}
        told |= {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"} if found else {}
        return self.finish_with(part, told)

    def json(self, told):
        self.send_response(200)
        self.finish_with(json.dumps(told).encode(), {"Content-Type": "application/json"})

    def missing(self, code):
        self.send_response(404)
        self.finish_with(b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

    def finish_with(self, data, headers):
        for name, value in ({"Content-Length": len(data)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.server.sent += len(data)
            self.wfile.write(data)


class Hub(ThreadingHTTPServer):
    """Data sets by id, each its files by path; what was asked, and how many bytes were sent."""

    daemon_threads = True

    def __init__(self, sets):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.sets, self.asked, self.sent = sets, [], 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass
