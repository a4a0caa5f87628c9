"""The files of captures: several writers, crashes, full disks, and reading them back."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import structlog
from structlog.typing import EventDict

from proxy.app import create_app
from proxy.capture import disk
from proxy.capture import store as store_module
from proxy.capture import writer as writer_module
from proxy.capture.budget import Budget
from proxy.capture.call import Call
from proxy.capture.reader import Rollout, find_rollout, find_rollouts
from proxy.capture.store import CaptureStore, is_plain, stem_of
from proxy.capture.writer import Writer
from proxy.loading import load
from proxy.record import Record
from proxy.settings import Capture, Settings, Upstream
from proxy.tables import SettingsError
from tests.proxy.captured import names, read_records

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from proxy.capture.store import CaptureStore

store = CaptureStore(Path(sys.argv[1]), fsync=False)
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    text = f'"{sys.argv[2]}-{n}-{"x" * (n % 7 * 30_000)}"'
    store.append("a", [b'{"model_call_id": ' + text.encode() + b"}\\n"])
    print(n, flush=True)
"""


def writer(folder: Path, name: str, lines: int) -> subprocess.Popen[bytes]:
    """A process that appends lines of up to 180 KB as soon as it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(lines)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_four_processes_write_one_file(tmp_path: Path) -> None:
    """No line is lost, torn or mixed, and each writer's lines are in order."""
    processes = [writer(tmp_path, name, 60) for name in "abcd"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=50)
        assert process.returncode == 0
    found: dict[str, list[int]] = {}
    for record in read_records(tmp_path, "a"):
        name, number, text = record["model_call_id"].split("-")
        assert len(text) == int(number) % 7 * 30_000
        found.setdefault(name, []).append(int(number))
    assert found == {name: list(range(60)) for name in "abcd"}


def test_writer_that_is_killed(tmp_path: Path) -> None:
    """Whatever it had said that it wrote is there; others go on behind a line that it tore."""
    process = writer(tmp_path, "a", 1_000_000)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    while process.stdout.readline() != b"40\n":
        pass
    process.kill()
    process.communicate()
    CaptureStore(tmp_path).append("a", [b'{"model_call_id": "b-0-"}\n'])
    rollout = Rollout(tmp_path, "a")
    ids = [call.model_call_id or "" for call in rollout.calls()]
    assert [call_id.split("-")[1] for call_id in ids[:41]] == [str(n) for n in range(41)]
    assert ids[-1] == "b-0-"
    assert rollout.damaged <= 1


def test_torn_line_is_counted_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.capture.jsonl"
    path.write_bytes(b'{"model_call_id": "one"}\n{"model_call')
    CaptureStore(tmp_path).append("a", [b'{"model_call_id": "two"}\n'])
    path.write_bytes(path.read_bytes() + b'\n[1]\n{"status_code": "x"}\n\xff\n')
    rollout = Rollout(tmp_path, "a")
    assert [call.model_call_id for call in rollout.calls()] == ["one", "two"]
    assert rollout.damaged == 4


def test_what_is_written_meanwhile_is_left_out(tmp_path: Path) -> None:
    store = CaptureStore(tmp_path)
    store.append("a", [b'{"model_call_id": "one"}\n{"model_call_id": "two"}\n'])
    calls = Rollout(tmp_path, "a").calls()
    assert next(calls).model_call_id == "one"
    store.append("a", [b'{"model_call_id": "three"}\n'])
    assert [call.model_call_id for call in calls] == ["two"]


def write_short(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let a write of several pieces take so many bytes only."""
    real = os.write
    monkeypatch.setattr(os, "writev", lambda file, pieces: real(file, b"".join(pieces)[:count]))


def test_disk_that_gets_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line does not stay."""
    store = CaptureStore(tmp_path)
    store.append("a", [b"{}\n"])

    def write(file: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    write_short(monkeypatch, 4)
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        store.append("a", [b'{"a"', b": 1}\n"])
    assert (tmp_path / "a.capture.jsonl").read_bytes() == b"{}\n"


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    write_short(monkeypatch, 3)
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    CaptureStore(tmp_path).append("a", [b'{"a"', b": 1}\n"])
    assert (tmp_path / "a.capture.jsonl").read_bytes() == b'{"a": 1}\n'


def test_more_pieces_than_a_write_takes(tmp_path: Path) -> None:
    lines = [piece for n in range(1500) for piece in (b'{"model_call_id": "', b"%d" % n, b'"}\n')]
    CaptureStore(tmp_path).append("a", lines)
    assert (tmp_path / "a.capture.jsonl").read_bytes() == b"".join(lines)
    assert len(list(Rollout(tmp_path, "a").calls())) == 1500


@pytest.mark.parametrize("fsync", [True, False])
def test_lines_are_on_the_disk_if_wanted(
    fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a new file too; lines that were appended to a file together at once."""
    synced: list[str] = []

    def sync(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)

    monkeypatch.setattr(os, "fsync", sync)
    store = CaptureStore(tmp_path, fsync=fsync)
    store.append("a", [b"{}\n"])
    store.append("a", [b"{}\n"])
    assert synced == []
    assert store.sync() == {}
    file = "a.capture.jsonl"
    assert synced == ([file, tmp_path.name] if fsync else [])
    store.append("a", [b"{}\n"])
    store.sync()
    store.sync()
    assert synced == ([file, tmp_path.name, file] if fsync else [])


def test_lines_that_do_not_get_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be lost, which is told once; of files that were taken away nothing is."""

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    store = CaptureStore(tmp_path)
    store.append("a", [b"{}\n"])
    store.sync()
    for rollout in ("a", "b", "c"):
        store.append(rollout, [b"{}\n"])
    (tmp_path / "b.capture.jsonl").unlink()
    monkeypatch.setattr(os, "fsync", fail)
    assert store.sync().keys() == {"a", "b", "c"}  # b as a new name, for all that is known
    store.append("a", [b"{}\n"])
    (tmp_path / "a.capture.jsonl").unlink()
    assert store.sync() == {}


def store_that_syncs_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, synced: list[str], error: OSError | None = None
) -> CaptureStore:
    """A store on a file system that can be synced as a whole, which may fail."""

    def sync_whole(folder: Path) -> None:
        synced.append("all")
        if error is not None:
            raise error

    monkeypatch.setattr(store_module, "can_sync_whole", lambda folder: True)
    monkeypatch.setattr(store_module, "sync_whole", sync_whole)
    monkeypatch.setattr(
        store_module, "sync_path", lambda path, flags: synced.append(Path(path).name)
    )
    return CaptureStore(folder)


def test_many_files_are_brought_to_the_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few are not, since their file system may have much else to write."""
    synced: list[str] = []
    store = store_that_syncs_whole(tmp_path, monkeypatch, synced)
    for n in range(16):
        store.append(str(n), [b"{}\n"])
    assert store.sync() == {}
    assert synced == ["all"]
    assert store.sync() == {}
    for n in range(15):
        store.append(str(n), [b"{}\n"])
    assert store.sync() == {}
    assert sorted(synced) == sorted(["all", *(f"{n}.capture.jsonl" for n in range(15))])


def test_file_system_that_cannot_be_synced_has_its_files_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    error = OSError(5, "Input/output error")
    store = store_that_syncs_whole(tmp_path, monkeypatch, synced, error)
    for n in range(16):
        store.append(str(n), [b"{}\n"])
    assert store.sync() == {}
    files = {f"{n}.capture.jsonl" for n in range(16)}
    assert (synced[0], set(synced[1:-1]), synced[-1]) == ("all", files, tmp_path.name)


MOUNTS = """\
21 1 0:20 / /proc rw - proc proc rw
27 1 {device} / / rw,relatime shared:1 - {type} /dev/vda rw,discard
"""


@pytest.mark.parametrize(
    ("type_", "release", "is_possible"),
    [
        ("ext4", "6.1.0-18-amd64", True),
        ("xfs", "5.8.0", True),
        ("f2fs", "10.0", True),
        ("overlay", "6.1.0", False),
        ("ext4", "5.7.19", False),
        ("ext4", "unknown", False),
        ("fuse.sshfs", "6.1.0", False),
        ("nfs4", "6.1.0", False),
    ],
)
def test_file_systems_that_can_be_synced_whole(
    type_: str,
    release: str,
    is_possible: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of which ``syncfs`` is known to do, and to tell, what ``fsync`` does."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(device=f"{os.major(device)}:{os.minor(device)}", type=type_))
    monkeypatch.setattr(disk, "_MOUNTS", mounts)
    kernel = os.uname_result(("Linux", "host", release, "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: kernel)
    assert disk.can_sync_whole(tmp_path) is is_possible
    mounts.write_text("")
    assert not disk.can_sync_whole(tmp_path)
    mounts.unlink()
    assert not disk.can_sync_whole(tmp_path)


def test_file_system_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.sync_whole(tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.sync_whole(tmp_path / "none")
    # Opened like this, a folder cannot be synced.
    monkeypatch.setattr(os, "O_CLOEXEC", os.O_CLOEXEC | os.O_PATH)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.sync_whole(tmp_path)


def test_lock_that_is_never_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_LOCK_LIMIT_S", 0.02)
    store = CaptureStore(tmp_path)
    with (tmp_path / "a.capture.jsonl").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            store.append("a", [b"{}\n"])
        store.append("b", [b"{}\n"])
    store.append("a", [b"{}\n"])
    assert len(read_records(tmp_path, "a")) == 1


@pytest.mark.parametrize("rollout", ["a", "A.b_c-9", "...", "x" * 200])
def test_ids_that_name_files(rollout: str) -> None:
    assert is_plain(rollout)
    assert stem_of(rollout) == rollout


@pytest.mark.parametrize("rollout", ["", ".", "..", "a/b", "a b", "ä", "a\n", "~", "x" * 201])
def test_ids_that_do_not(rollout: str) -> None:
    assert not is_plain(rollout)
    assert stem_of(rollout) != stem_of(f"{rollout}x")
    assert set(stem_of(rollout)) <= set("~0123456789abcdef")


def test_rollouts_of_a_folder(tmp_path: Path) -> None:
    store = CaptureStore(tmp_path)
    store.append("b", [b"{}\n"])
    store.append("a/b", [b"{}\n"])
    store.mark_incomplete("c")
    (tmp_path / "notes.txt").touch()
    found = {rollout.name: rollout.is_incomplete for rollout in find_rollouts(tmp_path)}
    assert found == {"b": False, "c": True, stem_of("a/b"): False}
    assert list(Rollout(tmp_path, "c").calls()) == []
    assert find_rollout(tmp_path, "a/b").name == find_rollout(tmp_path, stem_of("a/b")).name
    with pytest.raises(FileNotFoundError, match="no captures of the rollout 'x'"):
        find_rollout(tmp_path, "x")


# --- the writer --------------------------------------------------------------------------------


def call(rollout: str, budget: Budget, size_bytes: int = 10) -> Call:
    made = Call(rollout, Record("chat", "r"), budget, 0.0)
    made.keep_request([b"x" * size_bytes], "")
    return made


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def gated(folder: Path, gate: threading.Event, limit_bytes: int = 1000) -> Writer:
    """A writer that waits for a gate before each line."""

    def line_of(call: Call) -> list[bytes]:
        gate.wait()
        if call.rollout == "bad":
            raise ZeroDivisionError
        return [b'{"model_call_id": ', msgspec.json.encode(call.rollout), b"}\n"]

    made = Writer(CaptureStore(folder), line_of, limit_bytes)
    made.start()
    return made


def test_room_is_given_back_when_a_call_is_written(tmp_path: Path, gate: threading.Event) -> None:
    """Until then there is none, and what finds no room is marked."""
    writer = gated(tmp_path, gate)
    writer.put(call("a", writer.budget, 600))
    lost = call("b", writer.budget, 600)
    assert lost.is_dropped
    assert not lost.request
    writer.put(lost)
    writer.put(call("a", writer.budget, 200))
    gate.set()
    writer.close(10)
    assert names(tmp_path) == {"a.capture.jsonl", "b.capture.incomplete"}
    assert len(read_records(tmp_path, "a")) == 2
    assert not call("a", writer.budget, 1000 - 96).is_dropped
    assert call("a", writer.budget, 1).is_dropped


def test_call_that_loses_its_room_on_the_way() -> None:
    """Its pieces' own weight counts, so that many small ones are no way around the limit."""
    budget = Budget(300)
    one = call("a", budget, 1)
    one.begin_reply([])
    for _ in range(3):
        one.keep(one.reply, b"x")
    assert one.is_dropped
    assert one.reply is None
    one.keep(one.reply, b"x")
    assert budget.taken_bytes == 0


def test_what_comes_after_room_ran_out_is_neither_kept_nor_charged() -> None:
    budget = Budget(300)
    one = call("a", budget, 1000)
    assert one.is_dropped
    one.keep_document({"status": "completed"}, b"{}")
    assert one.document is None
    assert (one.size_bytes, budget.taken_bytes) == (0, 0)


def test_line_that_fails_costs_no_other(
    tmp_path: Path, gate: threading.Event, log_lines: list[EventDict]
) -> None:
    writer = gated(tmp_path, gate)
    for rollout in ("a", "bad", "a"):
        writer.put(call(rollout, writer.budget))
    gate.set()
    writer.close(10)
    assert names(tmp_path) == {"a.capture.jsonl", "bad.capture.incomplete"}
    assert len(read_records(tmp_path, "a")) == 2
    [loss] = log_lines
    assert (loss["rollout"], loss["why"]) == ("bad", "an unexpected error: ZeroDivisionError()")


def test_fault_of_the_writer_costs_no_other(
    tmp_path: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[EventDict],
) -> None:
    """Its thread goes on, and what it says names the worker that it belongs to."""
    append = CaptureStore.append

    def fail(store: CaptureStore, rollout: str, lines: Sequence[bytes]) -> None:
        if rollout == "full":
            raise MemoryError(structlog.contextvars.get_contextvars()["worker"])
        append(store, rollout, lines)

    monkeypatch.setattr(CaptureStore, "append", fail)
    with structlog.contextvars.bound_contextvars(worker=3):
        writer = gated(tmp_path, gate)
    for rollout in ("full", "a"):
        writer.put(call(rollout, writer.budget))
    gate.set()
    writer.close(10)
    assert len(read_records(tmp_path, "a")) == 1
    [loss] = log_lines
    assert (loss["rollout"], loss["why"]) == ("full", "3")


def test_disk_is_asked_for_less_often_than_lines_are_written(
    tmp_path: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[EventDict],
) -> None:
    """But soon, though no other call comes; what it does not take is marked."""
    monkeypatch.setattr(writer_module, "_SYNC_S", 0.01)
    is_told = threading.Event()

    def sync(store: CaptureStore) -> dict[str, OSError]:
        assert len(read_records(tmp_path, "a")) == 2
        if is_told.is_set():
            return {}
        is_told.set()
        return {"a": OSError(5, "Input/output error")}

    monkeypatch.setattr(CaptureStore, "sync", sync)
    writer = gated(tmp_path, gate)
    for _ in range(2):
        writer.put(call("a", writer.budget))
    gate.set()
    assert is_told.wait(10)
    writer.close(10)
    assert names(tmp_path) == {"a.capture.jsonl", "a.capture.incomplete"}
    [loss] = log_lines
    assert (loss["rollout"], loss["why"]) == ("a", "[Errno 5] Input/output error")


def test_slow_disk_does_not_hold_up_the_writing(
    tmp_path: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[EventDict],
) -> None:
    """At the end it is waited for, but only so long."""
    monkeypatch.setattr(writer_module, "_SYNC_S", 0.01)
    is_syncing, may_go_on = threading.Event(), threading.Event()

    def sync(store: CaptureStore) -> dict[str, OSError]:
        is_syncing.set()
        may_go_on.wait(10)
        return {}

    monkeypatch.setattr(CaptureStore, "sync", sync)
    gate.set()
    writer = gated(tmp_path, gate)
    writer.put(call("a", writer.budget))
    assert is_syncing.wait(10)
    writer.put(call("b", writer.budget))
    deadline_s = time.monotonic() + 10
    while writer.budget.freed_bytes < writer.budget.taken_bytes:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert len(read_records(tmp_path, "b")) == 1
    writer.close(0.1)
    may_go_on.set()
    writer.close(10)  # nothing of it is left when the next test begins
    assert [line["event"] for line in log_lines] == ["captures may not last"]


def test_end_brings_the_last_lines_to_the_disk(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting until it is time for that."""
    synced: list[int] = []

    def sync(store: CaptureStore) -> dict[str, OSError]:
        synced.append(len(read_records(tmp_path, "a")))
        return {}

    monkeypatch.setattr(writer_module, "_SYNC_S", 60)
    monkeypatch.setattr(CaptureStore, "sync", sync)
    gate.set()
    writer = gated(tmp_path, gate)
    for _ in range(3):
        writer.put(call("a", writer.budget))
    writer.close(10)
    assert synced == [3]


def test_folder_that_vanishes(
    tmp_path: Path, gate: threading.Event, log_lines: list[EventDict]
) -> None:
    folder = tmp_path / "captures"
    writer = gated(folder, gate)
    folder.rmdir()
    writer.put(call("a", writer.budget))
    gate.set()
    writer.close(10)
    assert [line["event"] for line in log_lines] == [
        *("a capture is lost", "a rollout cannot be marked")
    ]


def test_end_waits_for_a_slow_disk_only_so_long(
    tmp_path: Path, gate: threading.Event, log_lines: list[EventDict]
) -> None:
    writer = gated(tmp_path, gate)
    for _ in range(3):
        writer.put(call("a", writer.budget))
    writer.close(0.05)
    assert [line["event"] for line in log_lines] == ["captures are lost"]
    gate.set()
    writer.close(10)


# --- settings ----------------------------------------------------------------------------------


def test_settings_of_captures(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.toml"
    path.write_text(f'[capture]\ndir = "{tmp_path}"\nupstream = true\n')
    assert load(path, {}).capture == Capture(dir=str(tmp_path), upstream=True)
    assert load(None, {"capture.dir": "x"}).capture == Capture(dir="x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[capture]\nupstream = true\n", "dragoman.toml:1: capture: "),
        ('[capture]\ndir = ""\n', "dragoman.toml:2: capture.dir: "),
        ('[capture]\ndir = "dragoman.toml"\n', "is a file; expected a folder"),
        ('[capture]\ndir = "x"\nbuffer_bytes = 0\n', "dragoman.toml:3: capture.buffer_bytes: "),
        ('[capture]\ndir = "x"\nfsnyc = true\n', "did you mean 'fsync'?"),
    ],
)
def test_wrong_settings(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dragoman.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert words in str(caught.value)


def using(folder: Path) -> Settings:
    demo = Upstream(demo=True)
    return Settings(capture=Capture(dir=str(folder)), upstreams={"default": demo})


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "x"
    with pytest.raises(SettingsError, match=r"capture\.dir: '.*/file/x': Not a directory"):
        create_app(using(folder))


def test_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SettingsError, match="Permission denied"):
        create_app(using(tmp_path))
