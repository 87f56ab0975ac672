"""Depots for tests: a folder, and a real object store on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

BUCKET = "runs"


@contextmanager
def object_store() -> Iterator[str]:
    """A server that speaks S3, in this process; yields the URL of a bucket, and sets what clients look for in the environment."""
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs, the client of S3 for fsspec")
    server_module = pytest.importorskip("moto.server", reason="needs moto[server], which speaks S3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    facts = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    try:
        with mock.patch.dict(os.environ, facts):
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
            yield f"s3://{BUCKET}"
    finally:
        server.stop()
