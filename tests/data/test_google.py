"""Shards on Google's storage, from a stand-in of its JSON interface on this machine."""

from __future__ import annotations

import json
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from clipkit.data import CaptionDataModule, connections, unpack_skips
from clipkit.data.remote import Retry, expand, open_forwards

from .malformed import members, tar


class Handler(BaseHTTPRequestHandler):
    """Objects of one bucket: listed, told of, and read in ranges."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, query = unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/pictures/o(?:/(.+))?", path)
        if found is None:
            return self.send(404, b"{}")
        if found[1] is None:
            begin = query.get("prefix", [""])[0]
            told = [self.told(name) for name in sorted(self.server.objects) if name.startswith(begin)]
            return self.send(200, json.dumps({"items": told}).encode())
        if found[1] not in self.server.objects:
            return self.send(404, b'{"error": {"code": 404, "message": "No such object"}}')
        if query.get("alt") != ["media"]:
            return self.send(200, json.dumps(self.told(found[1])).encode())
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "bytes=0-99999999"))
        self.server.reads += 1
        if self.server.reads == 2:  # once it fails
            return self.send(503, b"{}")
        return self.send(206, self.server.objects[found[1]][int(asked[1]) : int(asked[2]) + 1])

    def told(self, name):
        size = str(len(self.server.objects[name]))
        return {"name": name, "bucket": "pictures", "size": size, "md5Hash": "x", "generation": "1"}

    def send(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def bucket(surroundings, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    shards = {f"deep/s-{i}.tar": [f"{i}{number}" for number in range(10)] for i in range(3)}
    server.objects = {name: tar([part for key in keys for part in members(key)]) for name, keys in shards.items()}
    server.reads = 0
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    retry = Retry(attempts=3, first_wait=0.001, most_wait=0.002, timeout=20)
    monkeypatch.setattr("clipkit.data.tar_shards.open_forwards", partial(open_forwards, retry=retry))
    connections._client.cache_clear()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket(bucket, spec, workers):
    assert expand("gs://pictures/deep/s-*.tar") == [f"gs://pictures/deep/s-{i}.tar" for i in range(3)]
    data = CaptionDataModule("gs://pictures/deep/s-{0..3}.tar", batch_size=2, workers=workers, epoch_steps=30)
    data.inputs = spec
    batches = list(data.train_dataloader())
    assert len({row for batch in batches for row in batch.concept.tolist()}) == 30
    skips = {(one.source, one.reason) for batch in batches for one in unpack_skips(batch.extra["skipped"])}
    assert skips == {("gs://pictures/deep/s-3.tar", "refused_shard")}
