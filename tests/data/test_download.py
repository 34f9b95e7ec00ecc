import hashlib
import io
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from scipy.io import savemat

from spinwarp.data.download import main
from spinwarp.data.ulf import pinned
from spinwarp.data.ulf.pinned import PinnedFile, check_pinned, fetch_pinned, find_pinned, read_manifest
from spinwarp.data.ulf.source import UltraLowFieldBrains
from spinwarp.errors import InputError

CONTENT = bytes(range(256)) * 400
LISTED = PinnedFile("Data folder/Figure 1/one file.mat", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())

Serve = Callable[[dict[str, bytes], int], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve contents by path; ``cut`` bytes at the end of each body are never sent."""
    servers = []

    def start(contents: dict[str, bytes], cut: int = 0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = contents.get(unquote(self.path).lstrip("/"))
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) - cut])

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that has seen enough hangs up

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_file_is_fetched_by_its_quoted_path_and_progress_counts_every_byte(serve: Serve) -> None:
    pieces: list[int] = []
    assert fetch_pinned(serve({LISTED.path: CONTENT}, 0), LISTED, pieces.append) == CONTENT
    assert sum(pieces) == LISTED.size


def test_a_body_cut_short_is_refused(serve: Serve) -> None:
    with pytest.raises(InputError, match=r"bytes, expected 102400|cannot download"):
        fetch_pinned(serve({LISTED.path: CONTENT}, 1000), LISTED, lambda _: None)


def test_another_file_of_the_same_size_is_refused(serve: Serve) -> None:
    with pytest.raises(InputError, match="is not the listed file: its SHA-256"):
        fetch_pinned(serve({LISTED.path: CONTENT[::-1]}, 0), LISTED, lambda _: None)


def test_a_longer_file_is_refused_without_reading_all_of_it(serve: Serve) -> None:
    pieces: list[int] = []
    with pytest.raises(InputError, match="incomplete or changed"):
        fetch_pinned(serve({LISTED.path: CONTENT * 50}, 0), LISTED, pieces.append)
    assert sum(pieces) < 2 * LISTED.size


def test_a_missing_file_and_a_missing_network_name_the_local_folder_as_the_way_out(serve: Serve) -> None:
    with pytest.raises(InputError, match=r"404.*--from FOLDER"):
        fetch_pinned(serve({}, 0), LISTED, lambda _: None)
    with pytest.raises(InputError, match=r"cannot download.*--from FOLDER"):
        fetch_pinned("http://127.0.0.1:9", LISTED, lambda _: None)  # the discard port: nobody listens


def test_a_silent_server_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="timed out"):
        fetch_pinned(f"http://127.0.0.1:{silent.getsockname()[1]}", LISTED, lambda _: None)


def test_a_run_that_broke_off_goes_on_where_it_was_and_never_takes_a_part_for_the_whole(
    serve: Serve, tmp_path: Path
) -> None:
    contents, lines = {}, ["# repository a/b at commit 01", "bytes\tsha256\tpath"]
    for contrast in ("FSE", "GRE"):
        file = io.BytesIO()
        savemat(file, {"kspace": np.ones((128, 4, 1), complex)})
        content = file.getvalue()
        name = f"Data of/Figure 1/{contrast}_kspace.mat"
        contents[f"a/b/01/{name}"] = content
        lines.append(f"{len(content)}\t{hashlib.sha256(content).hexdigest()}\t{name}")
    (tmp_path / "manifest.tsv").write_text("\n".join(lines))

    def fetch(address: str) -> list[str]:
        data = UltraLowFieldBrains(tmp_path, None, ["1"], [], [], tmp_path / "manifest.tsv", address)
        return [path.name for path in data.fetch(None)]

    first, second = contents
    with pytest.raises(InputError, match="run again to continue"):
        fetch(serve({first: contents[first]}, 0))
    with pytest.raises(InputError, match=r"bytes, expected|cannot download"):
        fetch(serve(contents, 5))
    assert [path.name for path in tmp_path.glob("*.h5")] == ["1_FSE.h5"]
    assert not list(tmp_path.glob(".*"))
    assert fetch(serve({second: contents[second]}, 0)) == ["1_GRE.h5"]


def test_a_manifest_gives_its_commit_and_files(tmp_path: Path) -> None:
    path = tmp_path / "manifest.tsv"
    path.write_text(f"# repository a/b at commit 0123abcd\nbytes\tsha256\tpath\n7\t{'0' * 64}\tx y/z.mat\n")
    assert read_manifest(path) == ("a/b/0123abcd", [PinnedFile("x y/z.mat", 7, "0" * 64)])
    path.write_text("bytes\tsha256\tpath\n")
    with pytest.raises(InputError, match="must begin with '# repository"):
        read_manifest(path)


def test_a_folder_is_searched_with_and_without_the_first_folder_of_the_repository(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = PinnedFile("Data folder/Figure 2/other.mat", 1, "")
    for folder, tail in {"clone": LISTED.path, "data": "Figure 1/one file.mat"}.items():
        path = tmp_path / folder / tail
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        assert find_pinned(tmp_path / folder, [LISTED, other]) == {LISTED: path}
        assert other.path in caplog.text
    with pytest.raises(InputError, match="has none of the 1 listed files"):
        find_pinned(tmp_path, [other])


def test_a_changed_size_and_a_changed_content_read_differently() -> None:
    check_pinned(LISTED, CONTENT, "x")
    with pytest.raises(InputError, match="x has 3 bytes"):
        check_pinned(LISTED, b"abc", "x")
    with pytest.raises(InputError, match="x is not the listed file"):
        check_pinned(LISTED, b"0" + CONTENT[1:], "x")


def test_the_command_ends_with_one_and_a_sentence_when_it_cannot_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ulf_brain", "--from", str(tmp_path), "--to", str(tmp_path / "to")]) == 1
    captured = capsys.readouterr()
    assert "has none of the 22 listed files" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, spinwarp.data.download; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
