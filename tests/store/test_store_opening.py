"""What cannot be opened is one sentence that says what to do, and nothing on disk is changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_scenario as scenario

from lossmith.errors import RunError
from lossmith.records import OK, Candidate, Evaluation, Request
from lossmith.store import RunStore, comparable_rows, migrations
from lossmith.store.schema import APPLICATION_ID, TABLES, reseal

Contents = dict[str, tuple[bytes, int]]


def contents(folder: Path) -> Contents:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def refused(path: Path, match: str, *, write: bool | None = None) -> None:
    """Both ways of opening refuse, in one sentence, and leave the folder alone."""
    before = contents(path) if path.is_dir() else None
    for mode in (False, True) if write is None else (write,):
        with pytest.raises(RunError, match=match) as caught:
            RunStore.open(path, write=mode)
        assert "\n" not in str(caught.value)
    assert (contents(path) if path.is_dir() else None) == before


@pytest.fixture(scope="module")
def finished(memory_disk: Path) -> Path:
    path = memory_disk / "finished" / "run"
    scenario.play(path)
    return path


@pytest.fixture(scope="module")
def killed(memory_disk: Path) -> Path:
    """A run as a kill leaves it: most of it is in the write-ahead log."""
    folder = memory_disk / "killed"
    with scenario.create(folder / "alive") as store:
        for number in range(3):
            store.add_generation(number, *scenario.candidates(number))
            store.tell(number, [0.5, 0.6, 0.7, None], {"ok": 3}, checkpoint={"m": number})
        shutil.copytree(folder / "alive", folder / "run")
    (folder / "run" / "lossmith.db-shm").unlink()
    assert (folder / "run" / "lossmith.db-wal").stat().st_size > 10_000
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_what_is_no_run(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere is missing: give the folder of a run")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "dangling", "a link that leads nowhere")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "is a file: give the folder")
    refused(tmp_path / "file" / "run", "run is missing|cannot be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"is no run: it holds no lossmith.db")
    (tmp_path / "foreign").mkdir()
    raw = sqlite3.connect(tmp_path / "foreign" / "lossmith.db")
    raw.execute("CREATE TABLE run (format)")
    raw.close()
    refused(tmp_path / "foreign", "was not written by Lossmith")


def test_a_reader_whose_run_is_taken_away_or_moved_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    with RunStore.open("run") as reader:
        monkeypatch.chdir("/")
        (run / "lossmith.db").touch()  # looks changed: it looks again, in the place where it was opened
        assert reader.run().state == "finished"
        shutil.rmtree(run)
        with pytest.raises(RunError, match="cannot be opened: check that it is still there"):
            reader.run()


def test_links_are_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "far").mkdir()
    (run / "lossmith.db").rename(tmp_path / "far" / "data.db")
    (run / "lossmith.db").symlink_to(tmp_path / "far" / "data.db")
    with RunStore.open(tmp_path / "link", write=True) as store:
        store.set_state("again")
        with RunStore.open(tmp_path / "link") as reader:
            assert reader.run().state == "again"
    assert os.listdir(tmp_path / "far") == ["data.db"]


def test_a_reader_leaves_no_trace(run: Path, killed: Path) -> None:
    for path in (run, killed):
        before = contents(path)
        assert comparable_rows(path)["generation"]
        assert contents(path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_can_be_read(run: Path) -> None:
    (run / "lossmith.db").chmod(0o444)
    run.chmod(0o555)
    try:
        assert comparable_rows(run)["candidate"]
        refused(run, "cannot be written: change its permissions", write=True)
    finally:
        run.chmod(0o755)


def test_a_folder_on_a_read_only_disk_can_be_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and granted(path, mode))
    assert comparable_rows(run)["candidate"]
    refused(run, "cannot be written: change its permissions", write=True)


def test_a_run_of_a_newer_lossmith(run: Path) -> None:
    raw = sqlite3.connect(run / "lossmith.db")
    raw.execute("UPDATE run SET format = 7")
    raw.execute("DROP TABLE event")  # who knows what it looks like
    raw.commit()
    raw.close()
    refused(run, r"was written by a newer Lossmith \(format 7; this one reads up to 3\): upgrade")


def test_a_changed_spec_is_not_continued(run: Path) -> None:
    (run / "spec.toml").write_text(scenario.SPEC + "# one more line\n")
    refused(run, r"spec.toml was changed since the run was created: restore it", write=True)
    with RunStore.open(run) as reader:
        assert reader.candidates()  # it can be shown
        with pytest.raises(RunError, match="was changed"):
            reader.spec_toml()
    (run / "spec.toml").unlink()
    refused(run, r"spec.toml is missing or unreadable: restore it from a copy", write=True)


def test_a_value_changed_behind_our_back_is_found(run: Path) -> None:
    raw = sqlite3.connect(run / "lossmith.db")
    raw.execute("UPDATE candidate SET fitness = 0.0 WHERE generation = 1 AND position = 0")
    raw.commit()
    raw.close()
    refused(run, "is damaged .*a row of table candidate.*: restore the folder from a copy; nothing was changed")


def test_truncated_at_any_length(run: Path) -> None:
    whole = (run / "lossmith.db").read_bytes()
    lengths = {
        0,
        1,
        15,
        16,
        17,
        99,
        100,
        101,
        511,
        512,
        1000,
        *range(4095, len(whole), 4096),
        *range(4096, len(whole), 4096),
    }
    for length in sorted({*lengths, *range(5000, len(whole), 7919), len(whole) - 1}):
        (run / "lossmith.db").write_bytes(whole[:length])
        if not any(whole[length:]) and length > len(whole) - 4096:
            continue  # SQLite reads zeros past the end: in the last page nothing is lost if only zeros are missing
        refused(run, r"lossmith.db (is damaged \(.+\): restore the folder from a copy|was not written by Lossmith)")
    (run / "lossmith.db").write_bytes(whole)
    assert comparable_rows(run)


def test_a_log_cut_anywhere_gives_the_last_whole_commit(killed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    log = (run / "lossmith.db-wal").read_bytes()
    told = []
    for length in [*range(0, len(log), 3001), len(log)]:
        (run / "lossmith.db-wal").write_bytes(log[:length])
        before = contents(run)
        with RunStore.open(run) as reader:
            generations = reader.generations()
            told.append(sum(g.told for g in generations))
            assert [g.candidates for g in generations] == [4] * len(generations)
            assert len(reader.candidates()) == 4 * len(generations)
            newest = reader.checkpoint()
            assert (-1 if newest is None else newest.generation) == told[-1] - 1
        assert contents(run) == before
    assert told == sorted(told)
    assert set(told) == {0, 1, 2, 3}


def damage(data: bytes, dice: np.random.Generator) -> bytes:
    """A flipped bit, a byte, a stretch of noise or of zeros."""
    broken = bytearray(data)
    at = int(dice.integers(len(data)))
    if dice.integers(4) == 0:  # the header and the table of tables are small: go there more often
        at = int(dice.integers(min(len(data), 4096)))
    kind = dice.integers(4)
    if kind == 0:
        broken[at] ^= 1 << int(dice.integers(8))
    elif kind == 1:
        broken[at] = int(dice.integers(256))
    else:
        length = min(int(dice.integers(1, 600)), len(data) - at)
        broken[at : at + length] = bytes(length) if kind == 2 else dice.bytes(length)
    return bytes(broken)


@pytest.mark.parametrize("seed", range(2))
def test_random_damage_is_either_harmless_or_said(run: Path, finished: Path, seed: int) -> None:
    dice = np.random.Generator(np.random.PCG64(seed))
    whole, right = (run / "lossmith.db").read_bytes(), comparable_rows(finished)
    harmless = 0
    for case in range(100):
        (run / "lossmith.db").write_bytes(damage(whole, dice))
        before = contents(run)
        try:
            rows = comparable_rows(run)
        except RunError:
            refused(run, str(run))
        else:
            assert rows == right, f"case {case} reads wrong"
            harmless += 1
        assert contents(run) == before
    assert 0 < harmless < 100


def test_random_damage_of_the_log_gives_an_earlier_commit_or_is_said(killed: Path, tmp_path: Path) -> None:
    dice = np.random.Generator(np.random.PCG64(5))
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    log, right = (run / "lossmith.db-wal").read_bytes(), comparable_rows(run)
    for _ in range(100):
        (run / "lossmith.db-wal").write_bytes(damage(log, dice))
        before = contents(run)
        try:
            rows = comparable_rows(run)
        except RunError:
            pass
        else:
            told = [row for row in rows["generation"] if row[1] == "told"]
            assert told == right["generation"][: len(told)]
            assert len(rows["candidate"]) == 4 * len(rows["generation"])
        assert contents(run) == before


def test_damage_under_a_writer_is_said_too(run: Path) -> None:
    with RunStore.open(run, write=True) as store:
        raw = sqlite3.connect(run / "lossmith.db")
        raw.execute("UPDATE run SET state = 'done'")
        raw.commit()
        raw.close()
        with pytest.raises(RunError, match=r"is damaged .*table run"):
            store.run()
        with pytest.raises(RunError, match=r"is damaged .*table run"):
            store.set_state("finished")


RELEASED = migrations.MIGRATIONS


def written_by(format: int, tmp_path: Path) -> Path:
    """The scenario as Lossmith wrote it when this format was the newest."""
    folder = tmp_path / f"format_{format}"
    folder.mkdir()
    (folder / "spec.toml").write_text(scenario.SPEC)
    raw = sqlite3.connect(folder / "lossmith.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    raw.executescript(Path(__file__).with_name(f"format_{format}.sql").read_text())
    raw.close()
    return folder


@pytest.fixture
def format_1(tmp_path: Path) -> Path:
    return written_by(1, tmp_path)


def test_a_run_of_format_1_is_read_in_memory_and_upgraded_by_a_writer(format_1: Path, finished: Path) -> None:
    right, before = comparable_rows(finished), contents(format_1)
    assert comparable_rows(format_1) == right  # keys of requests included: what was trained is not trained again
    with RunStore.open(format_1) as reader:
        stored = reader.evaluations()
        assert {(row.request.work, row.request.settings, row.evaluation.product) for row in stored} == {
            ("train", "", "")
        }
        assert all(row.request.key == row.evaluation.request for row in stored)
        assert {row.tuned for row in reader.candidates()} == {None}
    assert contents(format_1) == before
    with RunStore.open(format_1, write=True) as store:
        assert store.run().format == 3
        request = Request("{}", 0, work="screen", settings="{}")
        store.record([(request, Evaluation(request.key, OK, product='{"gradients":"a"}'))], purpose="screen")
    raw = sqlite3.connect(format_1 / "lossmith.db")
    assert raw.execute("SELECT work, product FROM evaluation WHERE work <> 'train'").fetchall() == [
        ("screen", '{"gradients":"a"}')
    ]
    raw.close()
    after = comparable_rows(format_1)
    assert [row for row in after["evaluation"] if "screen" not in row] == right["evaluation"]
    assert after["candidate"] == right["candidate"]
    scenario.play(format_1)  # goes on: everything is there
    assert len(comparable_rows(format_1)["evaluation"]) == len(right["evaluation"]) + 1


def test_a_run_of_format_2_is_read_in_memory_and_upgraded_by_a_writer(tmp_path: Path, finished: Path) -> None:
    folder = written_by(2, tmp_path)
    right, before = comparable_rows(finished), contents(folder)
    assert comparable_rows(folder) == right
    with RunStore.open(folder) as reader:
        assert {row.candidate.tuning for row in reader.candidates()} == {""}  # tuned as the method says
        assert all(row.request.key == row.evaluation.request for row in reader.evaluations())
    assert contents(folder) == before
    with RunStore.open(folder, write=True) as store:
        assert store.run().format == 3
        own = Candidate("{}", "own", tuning='{"meta_steps":50,"state":"so far"}')
        store.add_generation(scenario.GENERATIONS, [own], [None])
        store.add_generation(scenario.GENERATIONS, [own], [None])  # a resumed search asks again
        with pytest.raises(RunError, match="tuning"):
            store.add_generation(scenario.GENERATIONS, [replace(own, tuning="")], [None])
    with RunStore.open(folder) as reader:
        assert reader.candidates(scenario.GENERATIONS)[0].candidate == own
    after = comparable_rows(folder)
    assert after["candidate"][:-1] == right["candidate"]


def test_a_kind_of_work_nobody_knows_is_damage(run: Path) -> None:
    raw = sqlite3.connect(run / "lossmith.db", isolation_level=None)
    raw.execute("UPDATE evaluation SET work = 'dance' WHERE seed = 1")
    reseal(raw, "evaluation")
    raw.close()
    with RunStore.open(run) as reader:
        with pytest.raises(RunError, match="'dance' is no kind of work: one of train, screen, tune was expected"):
            reader.evaluations()
        assert reader.candidates()


def test_a_status_nobody_knows_is_damage(run: Path) -> None:
    raw = sqlite3.connect(run / "lossmith.db", isolation_level=None)
    raw.execute("UPDATE candidate SET status = 'tired:very' WHERE position = 1")
    reseal(raw, "candidate")
    raw.close()
    with RunStore.open(run) as reader, pytest.raises(RunError, match="'tired:very' is no status: it must begin with"):
        reader.candidates()


@pytest.fixture
def older(run: Path) -> Path:
    """A run of an imagined older format, in which candidates had no origin and fitness was doubled."""
    raw = sqlite3.connect(run / "lossmith.db", isolation_level=None)
    raw.execute("ALTER TABLE candidate DROP COLUMN origin")
    raw.execute("UPDATE candidate SET fitness = fitness * 2")
    reseal(raw, "candidate")
    raw.close()
    return run


def upgrade(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE candidate ADD COLUMN origin TEXT NOT NULL DEFAULT ''")
    connection.execute("UPDATE candidate SET fitness = fitness / 2, origin = 'draw ' || position")


def test_an_older_format_is_migrated_in_memory_for_readers_and_on_disk_for_a_writer(
    older: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(older, "is damaged .*table candidate has other columns")  # without the migration
    right = comparable_rows(finished)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*RELEASED, upgrade))
    right["run"] = [(1, 4, *right["run"][0][2:])]  # format 4
    before = contents(older)
    assert comparable_rows(older) == right
    assert contents(older) == before
    RunStore.open(older, write=True).close()
    assert contents(older)["lossmith.db"] != before["lossmith.db"]
    monkeypatch.setattr(migrations, "MIGRATIONS", (*RELEASED, upgrade))
    assert comparable_rows(older) == right  # and not a second time
    monkeypatch.setattr(migrations, "MIGRATIONS", RELEASED)
    refused(older, r"newer Lossmith \(format 4; this one reads up to 3\)")


def test_migrations_run_in_order_and_a_failing_one_changes_nothing(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM candidate")
        raise sqlite3.OperationalError("no such thing")

    monkeypatch.setattr(migrations, "MIGRATIONS", (*RELEASED, upgrade, fail))
    refused(older, "no such thing")
    monkeypatch.setattr(
        migrations,
        "MIGRATIONS",
        (*RELEASED, upgrade, lambda c: c.execute("UPDATE candidate SET origin = origin || '!'")),
    )
    with RunStore.open(older, write=True) as store:
        assert store.run().format == 5
        assert {row.candidate.origin for row in store.candidates()} == {f"draw {i}!" for i in range(4)}


def test_every_table_says_what_its_columns_mean() -> None:
    for table in TABLES:
        assert all(column.meaning for column in table.columns)
        assert set(table.key) <= set(table.compared)
