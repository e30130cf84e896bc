"""An S3 store on loopback (moto's), behind a door that counts requests and answers some of them wrongly."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

import boto3
import pytest
import requests
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from ddeval import cache

BUCKET = "team"
Fault = str
"""500, 503, 403 or 404: that status. cut: half the body. lost: no answer at all."""
CODES = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "404": "NoSuchKey"}


class Quiet(WSGIRequestHandler):
    """Says nothing, and answers several requests over one connection, as S3 does."""

    protocol_version = "HTTP/1.1"

    def log(self, *args: object) -> None:
        pass


@dataclass
class Store:
    """The server, what it was asked, and what it shall answer wrongly."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request since `clear`."""
    fault: Callable[[str, str], Fault | None] = lambda method, key: None
    """Called with method and key; what to do instead of answering."""

    @property
    def client(self):
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")

    def put(self, key: str, content: bytes | str, bucket: str = BUCKET) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def put_folder(self, folder, prefix: str, bucket: str = BUCKET) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes(), bucket)

    def content(self, key: str, bucket: str = BUCKET) -> bytes:
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def keys(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def clear(self) -> None:
        self.asked.clear()

    def downloads(self) -> list[str]:
        """Keys of objects whose content was asked for."""
        return [path for method, path in self.asked if method == "GET" and "?" not in path]

    def counts(self) -> dict[str, int]:
        return dict(Counter(method for method, _ in self.asked))

    def __call__(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def door(environ, start_response):
            method, path = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"])
            query = environ.get("QUERY_STRING", "")
            key = path.removeprefix(f"/{BUCKET}").removeprefix("/")
            is_list = method == "GET" and "list-type" in query
            self.asked.append((method, f"{path}?{query}" if is_list else path))
            wrong = self.fault("LIST" if is_list else method, key)
            if wrong in CODES:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                body = f"<?xml version='1.0'?><Error><Code>{CODES[wrong]}</Code></Error>".encode()
                start_response(
                    f"{wrong} X", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
                )
                return [] if method == "HEAD" else [body]
            if wrong == "lost":
                environ["werkzeug.socket"].shutdown(2)
                return []
            content = b"".join(application(environ, start_response))
            if wrong == "cut" and len(content) > 1:
                return cut(content, environ)
            return [content]

        return door


def cut(content: bytes, environ) -> Iterable[bytes]:
    """Half the content, then the connection is closed though the header promised the whole."""
    yield content[: len(content) // 2]
    environ["werkzeug.socket"].shutdown(2)


@pytest.fixture
def store(monkeypatch, tmp_path_factory):
    """The store with one empty bucket `team`; this process and its children use it, with an empty cache."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    held = Store()
    application = held(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    held.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", held.url)
    requests.post(f"{held.url}/moto-api/reset", timeout=10)
    held.client.create_bucket(Bucket=BUCKET)
    held.clear()
    cache.forget()
    try:
        yield held
    finally:
        server.shutdown()
        thread.join()
