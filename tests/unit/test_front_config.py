"""The text that nginx gets: whole, tested by nginx itself where it is installed, and no option can add a directive."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import front, front_process, run_folder
from deploy.front_config import TEMPLATE, Canary, FrontSettings, fill, render
from deploy.front_options import CanaryOptions, Start, Stop
from deploy.front_process import Front
from segserve.errors import ServerError, UsageError
from tests.e2e.fronts import NEEDS_NGINX, run_folder_of


def settings(where: Path, **changes: object) -> FrontSettings:
    plain = FrontSettings(str(where), "127.0.0.1:8080", "127.0.0.1", 8090, 33554432, 300)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def lines(text: str) -> list[str]:
    return [line.split("  #")[0].strip() for line in text.splitlines() if not line.lstrip().startswith("#")]


def test_no_gap_stays_open(tmp_path: Path) -> None:
    text = render(settings(tmp_path), {"rooms": Canary("2.0", 0.05)})
    assert "{{" not in text
    assert "client_max_body_size 33554432;" in lines(text)
    assert "server 127.0.0.1:8080;" in lines(text)
    assert lines(text).count("limit_conn in_flight 300;") == 2  # with a canary and without


def test_everything_is_written_below_the_folder(tmp_path: Path) -> None:
    text = render(settings(tmp_path), {})
    written = re.findall(
        r"^\s*(?:pid|error_log|access_log|\w+_temp_path) (\S+?);?(?: |$)", text, re.MULTILINE
    )
    assert len(written) == 8
    assert all(path.startswith(f'"{tmp_path}/') for path in written)


def test_each_canary_has_its_draw_and_its_model(tmp_path: Path) -> None:
    text = lines(render(settings(tmp_path), {"rooms": Canary("2.0", 0.05), "a.b": Canary("1", 1.0)}))
    assert 'split_clients "rooms/2.0/$id" $canary_0 { 5.00% "2.0"; * ""; }' in text
    assert 'split_clients "a.b/1/$id" $canary_1 { 100.00% "1"; * ""; }' in text
    assert '"~^(plain|invoke):rooms$" $canary_0;' in text
    assert r'"~^(plain|invoke):a\.b$" $canary_1;' in text


def test_tls_only_with_a_certificate_and_only_what_is_safe_today(tmp_path: Path) -> None:
    assert "ssl" not in " ".join(lines(render(settings(tmp_path), {})))
    text = lines(render(settings(tmp_path, certificate="/c.pem", key="/k.pem"), {}))
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in text
    assert "listen 127.0.0.1:8090 backlog=4096 ssl;" in text


def test_names_are_those_and_no_other(tmp_path: Path) -> None:
    text = render(settings(tmp_path, names=("Rooms.example.org",)), {})
    assert 'default 0;\n        "rooms.example.org" 1;' in text
    assert "default 1;" in render(settings(tmp_path), {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "127.0.0.1; include /etc/passwd"}, "--host"),
        ({"names": ("a;b",)}, "--names"),
        ({"host": "::1"}, "IPv4"),
        ({"folder": '/x"; include /y'}, "nginx takes no path"),
        ({"certificate": "/a$b", "key": "/k"}, "nginx takes no path"),
        ({"certificate": "/c.pem"}, "both or none"),
        ({"port": 0}, "--port 0"),
        ({"max_in_flight": 0}, "--max-in-flight 0"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        settings(tmp_path, **changes)


@pytest.mark.parametrize(
    ("version", "share"),
    [
        ("2.0", 0.0),
        ("2.0", 1.01),
        ("2.0", 0.00001),
        ("2.0", float("nan")),
        ('2"; include x', 0.5),
        ("..", 0.5),
    ],
)
def test_canaries_that_cannot_be(version: str, share: float) -> None:
    with pytest.raises(UsageError):
        Canary(version, share)


def test_a_model_name_cannot_add_a_directive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="serves names of"):
        render(settings(tmp_path), {'rooms" x; } include y': Canary("2.0", 0.5)})


def test_a_template_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ServerError, match="unknown"):
        fill("a {{unknown}}", {})
    with pytest.raises(ServerError, match="unused"):
        fill("a", {"unused": ""})
    assert fill("a {{b}} {{b}} { }", {"b": "{{c}}"}) == "a {{c}} {{c}} { }"


@pytest.mark.parametrize(
    "options",
    [{"version": "2.0"}, {"share": 0.5}, {"off": True, "version": "2.0"}, {"off": True, "share": 0.5}, {}],
)
def test_canary_is_on_with_version_and_share_or_off(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--off"):
        CanaryOptions("rooms", **options)  # type: ignore[arg-type]


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape("--certificate")):
        Start(certificate=tmp_path / "none.pem")


def test_links_to_certificates_stay_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_ports: Callable[[int], list[int]]
) -> None:
    """certbot's renewal points them elsewhere, and a reload must find what they lead to then."""
    launched: list[FrontSettings] = []

    def launch(settings: FrontSettings) -> Front:
        launched.append(settings)
        return Front(1, "", settings)

    monkeypatch.setattr(front_process, "launch", launch)
    monkeypatch.chdir(tmp_path)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / f"old-{name}").touch()
        (tmp_path / name).symlink_to(f"old-{name}")
    running, [port] = run_folder_of("http://127.0.0.1:1", tmp_path / "run"), free_ports(1)
    options = Start(
        port=port, certificate=Path("cert.pem"), key=Path("key.pem"), run_dir=Path(running.run_dir)
    )
    assert front.start(options) == 0
    text = lines(render(launched[0], {}))
    assert f'ssl_certificate "{tmp_path}/cert.pem";' in text
    assert f'ssl_certificate_key "{tmp_path}/key.pem";' in text


@pytest.mark.parametrize(("queue", "at_a_time"), [(1, 5), (15, 19), (61, 67), (300, 330)])
def test_it_takes_more_than_the_queue_holds(queue: int, at_a_time: int) -> None:
    """So the server refuses some, and what it refuses its metrics count: nobody sees what nginx refuses."""
    assert front.more_than(queue) == at_a_time


def test_the_default_is_that_and_the_option_wins(tmp_path: Path) -> None:
    running = run_folder_of("http://127.0.0.1:1", tmp_path / "run", queue=100)
    assert front._settings(Start(run_dir=tmp_path / "run"), running).max_in_flight == 110
    assert front._settings(Start(max_in_flight=7, run_dir=tmp_path / "run"), running).max_in_flight == 7


@pytest.mark.parametrize("another", [True, False], ids=["another was started", "none was started"])
def test_a_stop_leaves_what_the_next_front_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """The first ends, somebody starts the next one, and only then does the stop get round to clearing up."""
    folder = tmp_path / "front"
    (folder / "tmp").mkdir(parents=True)
    first, second = (Front(2**22 + n, f"boot {n}", settings(folder)) for n in (1, 2))
    front_process.save(first)
    if another:
        monkeypatch.setattr(front_process, "_end_orphans", lambda _: front_process.save(second))
    assert front.stop(Stop(tmp_path)) == 0
    assert front_process.load(tmp_path) == (second if another else None)
    assert (folder / "tmp").is_dir() is another


def test_a_stop_clears_up_when_no_start_is_on_its_way(tmp_path: Path) -> None:
    folder = tmp_path / "front"
    folder.mkdir()
    front_process.save(Front(2**22 + 1, "boot 1", settings(folder)))
    stopping = threading.Thread(target=lambda: front.stop(Stop(tmp_path)), daemon=True)
    with run_folder.exclusive(folder):
        stopping.start()
        stopping.join(0.3)
        assert stopping.is_alive()
        assert front_process.load(tmp_path) is not None
    stopping.join(30)
    assert front_process.load(tmp_path) is None


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "front"
    folder.mkdir()
    assert front_process.load(tmp_path) is None
    saved = Front(1, "boot 1", settings(folder, names=("a",)), {"rooms": Canary("2.0", 0.05)})
    front_process.save(saved)
    assert front_process.load(tmp_path) == saved
    assert front_process.front_running(tmp_path) is None  # that process is not there
    (folder / "front.json").write_text('{"pid": 1')
    with pytest.raises(ServerError, match="remove the file"):
        front_process.load(tmp_path)


def test_without_nginx_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(front_process, "SYSTEM_PATH", "")
    with pytest.raises(ServerError, match="apt install nginx"):
        front_process.nginx()


@NEEDS_NGINX
@pytest.mark.parametrize("canaries", [{}, {"rooms": Canary("2.0", 0.0001), "b-c.d": Canary("1.0", 1.0)}])
def test_nginx_takes_it(tmp_path: Path, canaries: dict[str, Canary]) -> None:
    for folder in ("logs", "tmp"):
        (tmp_path / folder).mkdir()
    config = tmp_path / "nginx.conf"
    config.write_text(render(settings(tmp_path, names=("a.example", "b.example")), canaries))
    done = subprocess.run(
        [front_process.nginx(), "-t", "-p", tmp_path, "-e", tmp_path / "logs" / "error.log", "-c", config],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
    assert TEMPLATE.exists()
