"""``polyturn view`` as it is typed: it listens, prints its key, and ends when told."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from polyturn.cli.main import main
from polyturn.cli.view import PORT, hosts, kept_token, listen
from polyturn.errors import BadInput
from tests.dashboard.made import made_run


def test_it_serves_and_ends(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "one", iterations=1)
    environment = {**os.environ, "POLYTURN_CACHE": str(tmp_path / "cache"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    server = subprocess.Popen(
        [sys.executable, "-m", "polyturn", "view", str(tmp_path / "runs"), "--port", "0", "--json"],
        stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        assert told["runs"] == ["one"]
        with httpx.Client(follow_redirects=True) as web:
            base = told["address"].split("/enter")[0]
            for _ in range(100):
                try:
                    answer = web.get(told["address"])
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            assert "Polyturn" in answer.text and base.startswith("http://127.0.0.1:")
            assert web.get(base + "/api/runs").json()[0]["name"] == "one"
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=10) is not None


def test_the_token_is_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "view-token"
    first = kept_token(path)
    assert len(first) >= 32 and kept_token(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("short")
    assert kept_token(path) not in ("short", first)


def test_a_taken_port(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"cannot listen on 127.0.0.1:{port}"):
            listen("127.0.0.1", port)
    assert PORT > 1024


def test_names_under_which_it_is_reached() -> None:
    assert hosts("127.0.0.1", 80, ["box:1"]) == ("127.0.0.1:80", "localhost:80", "[::1]:80", "box:1")
    assert "0.0.0.0:80" not in hosts("0.0.0.0", 80, [])


def test_missing_folders_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["view", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err
