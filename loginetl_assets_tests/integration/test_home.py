"""A LOGINETL_HOME that someone else prepared: nothing of it is believed, and nothing beyond it is touched."""

import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loginetl_assets.errors import EmbeddedStackError
from loginetl_assets.home import ENTRIES, check_home, make_home
from loginetl_assets.local.stack import EmbeddedStack
from loginetl_assets.services import Services
from loginetl_assets.settings import KeysetRole, Settings

STRANGER = 54_321  # a user id that no system gives by itself

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")

USES: dict[str, Callable[[Path], Any]] = {
    "find": lambda home: EmbeddedStack(home).find(),
    "start": lambda home: EmbeddedStack(home).start(),
    "stop": lambda home: EmbeddedStack(home).stop(),
    "keyring": lambda home: Services(Settings(home=home)).keyring.make_missing(),
    "officer": lambda home: Services(Settings(home=home)).officer(),
    "landing": lambda home: Services(Settings(home=home)).landing(),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that is ours, with all that is ever made in one."""
    home = make_home(tmp_path / "home")
    for name in ENTRIES:
        if name in {"lock", "services.json", "services.new"}:
            (home / name).touch(mode=0o600)
        else:
            (home / name).mkdir(mode=0o700)
    for name in ("logs/postgres.log", "logs/sqs.log", "dagster/dagster.yaml", "keys/masking.json"):
        (home / name).touch(mode=0o600)
    for name in ("postgres/data", "sqs/state", "landing/batches"):
        (home / name).mkdir(mode=0o700)
    check_home(home)
    return home


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file, both as they were at the end."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o750)
    (elsewhere / "file").write_text("someone's")
    before = seen(elsewhere)
    yield elsewhere
    assert seen(elsewhere) == before


def seen(directory: Path) -> list[Any]:
    """All that one could have changed about a directory and what is in it."""
    return [
        (path, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), path.is_file() and path.read_bytes())
        for path in (directory, *sorted(directory.rglob("*")))
        for found in [path.lstat()]
    ]


def refused(use: str, home: Path) -> str:
    before = seen(home)
    with pytest.raises(EmbeddedStackError, match="LOGINETL_HOME") as raised:
        USES[use](home)
    assert seen(home) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("use", USES)
@as_root
def test_a_home_of_another_user_is_refused(use: str, home: Path) -> None:
    os.chown(home, STRANGER, STRANGER)

    assert refused(use, home).startswith(f"{home} belongs to another user: ")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_home_that_others_can_write_to_is_refused(use: str, mode: int, home: Path) -> None:
    home.chmod(mode)

    assert refused(use, home).startswith(f"{home} can be written to by other users: `chmod go-w {home}`, or ")


@pytest.mark.parametrize("use", USES)
def test_a_home_that_is_a_link_is_refused(use: str, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(elsewhere)

    assert refused(use, tmp_path / "link").startswith(f"{tmp_path}/link is a link, ")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", [*ENTRIES, "logs/postgres.log", "postgres/data", "sqs/state", "keys/masking.json"])
def test_no_link_in_a_home_is_followed(use: str, name: str, home: Path, elsewhere: Path) -> None:
    target = elsewhere if (home / name).is_dir() else elsewhere / "file"
    shutil.rmtree(home / name) if (home / name).is_dir() else (home / name).unlink()
    (home / name).symlink_to(target)

    assert refused(use, home).startswith(f"{home / name} is a link, ")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", [*ENTRIES, "keys/masking.json", "dagster/dagster.yaml", "postgres/data"])
@as_root
def test_what_belongs_to_another_user_in_a_home_is_refused(use: str, name: str, home: Path) -> None:
    if name == "postgres":
        (home / "postgres/data").rmdir()
        (home / "postgres").chmod(0o770)  # as the server's own user's it is right, with these rights it is not
    os.chown(home / name, STRANGER, STRANGER)

    reason = "can be written to by other users" if name == "postgres" else "belongs to another user"
    assert refused(use, home).startswith(f"{home / name} {reason}: ")


@pytest.mark.parametrize("use", USES)
def test_keys_that_others_may_know_are_refused(use: str, home: Path) -> None:
    (home / "keys").chmod(0o755)

    assert refused(use, home).startswith(f"{home}/keys is open to other users, who may know the keys: `chmod go= ")


def test_links_above_a_home_are_the_callers_choice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    through = tmp_path / "link" / "home"
    keyring = Services(Settings(home=through)).keyring
    keyring.make_missing()

    assert EmbeddedStack(through).home == tmp_path / "real" / "home"
    assert EmbeddedStack(through).find() is None
    assert Services(Settings(home=through)).keyring.key_ids(KeysetRole.VAULT) == keyring.key_ids(KeysetRole.VAULT)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
@pytest.mark.parametrize("first", ["keyring", "landing"])
def test_a_home_is_closed_whoever_makes_it_under_whichever_umask(first: str, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        USES[first](tmp_path / "home")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    check_home(tmp_path / "home")


@pytest.mark.parametrize("given", ["..", "home/..", "/"])
def test_a_home_without_a_name_of_its_own_is_looked_at_as_well(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path / "home" if given == ".." else tmp_path)
    if given == "/":
        assert EmbeddedStack(Path(given)).home == Path("/")
    else:
        with pytest.raises(EmbeddedStackError, match=f"^{tmp_path} can be written"):
            EmbeddedStack(Path(given)).find()


# Root, whose PostgreSQL runs as another user


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """A stack that was never started, below two directories of its own."""
    below = tmp_path / "above" / "parent"
    below.mkdir(parents=True, mode=0o700)
    stack = EmbeddedStack(below / "home")
    yield stack
    for directory in (below.parent, below):
        os.chown(directory, os.geteuid(), os.getegid())
    stack.stop()


@as_root
def test_root_opens_no_directory_of_another_user(stack: EmbeddedStack) -> None:
    parent = stack.home.parent
    os.chown(parent, STRANGER, STRANGER)

    with pytest.raises(EmbeddedStackError, match=rf"^{parent} belongs to another user and is closed .*LOGINETL_HOME"):
        stack.start()
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700


@as_root
def test_root_makes_its_own_directories_passable_and_gives_only_its_servers_one_away(stack: EmbeddedStack) -> None:
    stack.start()

    assert stat.S_IMODE(stack.home.parent.stat().st_mode) == 0o701
    owners = {path.name: path.lstat().st_uid for path in (stack.home, *stack.home.iterdir())}
    server = owners.pop("postgres")
    assert server != 0
    assert set(owners.values()) == {0}
    assert {path.lstat().st_uid for path in (stack.home / "postgres").iterdir()} == {server}
    check_home(stack.home)


@as_root
def test_the_data_of_another_servers_user_stay_that_users(stack: EmbeddedStack) -> None:
    account = pwd.getpwnam("daemon")  # whom every system has, beside nobody
    make_home(stack.home)
    (stack.home / "postgres").mkdir(mode=0o700)
    os.chown(stack.home / "postgres", account.pw_uid, account.pw_gid)
    first = stack.start()
    stack.stop()

    assert stack.start().database_url == first.database_url
    assert {path.lstat().st_uid for path in (stack.home / "postgres").rglob("*")} == {account.pw_uid}
