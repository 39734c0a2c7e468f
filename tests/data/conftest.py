import gzip
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch, tmp_path):
    """No test sees the user's folder or cache, and none reaches the network."""
    monkeypatch.delenv("LLAMAREC_DATA", raising=False)
    monkeypatch.setenv("LLAMAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLAMAREC_MIRROR", "http://127.0.0.1:9")


@pytest.fixture
def write():
    """Write a file's text or bytes, gzipped where its name says so, and return its path."""

    def write_file(path: Path, content: str | bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write_file


@pytest.fixture
def events():
    """Every one of five users with every one of five items: the smallest 5-core. (user, item, time)."""
    return [(f"u{user}", f"i{item}", 100 * user + item) for user in range(5) for item in range(5)]
