"""Settings: precedence, errors that name the place, secrets, and the docs table."""

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import UsageError
from whet.settings import (
    KINDS,
    STARS,
    ServeSettings,
    Settings,
    about,
    cache_folder,
    environ,
    fields,
    load,
    masked,
    table,
)

DOCS = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


def test_defaults_need_nothing():
    assert load(ServeSettings, env={}) == ServeSettings()


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path):
    file = tmp_path / "whet.toml"
    file.write_text("[serve]\nhttp_port = 1\ngrpc_port = 1\ndrain_ms = 1\n")
    env = {"WHET_SERVE_HTTP_PORT": "2", "WHET_SERVE_GRPC_PORT": "2"}
    settings = load(ServeSettings, file, env, {"http_port": 3, "workers": None})
    assert (settings.http_port, settings.grpc_port, settings.drain_ms, settings.workers) == (3, 2, 1, 0)


def test_the_environment_may_name_the_file(tmp_path):
    file = tmp_path / "whet.toml"
    file.write_text("[serve]\nname = 'cats'\n[serve.cpu_weights]\na = 2\n")
    settings = load(ServeSettings, env={"WHET_CONFIG": str(file)})
    assert (settings.name, settings.cpu_weights) == ("cats", {"a": 2.0})


def test_texts_become_the_fields_types():
    env = {
        "WHET_SERVE_SOURCES": "a,b",
        "WHET_SERVE_CPU_WEIGHTS": "big=2,small=0.5",
        "WHET_SERVE_GRPC": "false",
        "WHET_SERVE_QUEUE_BOUND": "",
        "WHET_SERVE_REQUEST_TIMEOUT_MS": "250",
    }
    settings = load(ServeSettings, env=env)
    assert settings.sources == ("a", "b")
    assert settings.cpu_weights == {"big": 2.0, "small": 0.5}
    assert settings.grpc is False
    assert (settings.queue_bound, settings.request_timeout_ms) == (None, 250)


def test_shapes_hold_commas_and_come_apart_at_semicolons():
    shapes = ("a=1,3", "b=-1,4")
    assert load(ServeSettings, env={"WHET_SERVE_INPUT_SHAPE": ";".join(shapes)}).input_shape == shapes
    assert load(ServeSettings, env={}, flags={"input_shape": shapes}).input_shape == shapes


def test_pairs_may_come_as_repeated_flags():
    assert load(ServeSettings, env={}, flags={"cpu_weights": ["a=1", "b=3"]}).cpu_weights == {"a": 1.0, "b": 3.0}


@pytest.mark.parametrize(
    ("toml", "env", "flags", "words"),
    [
        ("[serve]\nhtp_port = 1", {}, {}, ["serve.htp_port", "http_port"]),
        ("[server]\nhttp_port = 1", {}, {}, ["'server'", "'serve'"]),
        ("serve = 1", {}, {}, ["[serve]"]),
        ("[serve", {}, {}, ["no TOML"]),
        ("[serve]\nhttp_port = 'x'", {}, {}, ["serve.http_port", "'x'", "int"]),
        ("", {"WHET_SERVE_HTP_PORT": "1"}, {}, ["WHET_SERVE_HTP_PORT", "WHET_SERVE_HTTP_PORT"]),
        ("", {"WHET_SERV_HTTP_PORT": "1"}, {}, ["WHET_SERV_HTTP_PORT", "WHET_SERVE_HTTP_PORT"]),
        ("", {"WHET_SERVE_HTTP_PORT": "99999"}, {}, ["WHET_SERVE_HTTP_PORT", "65535"]),
        ("", {"WHET_SERVE_CPU_WEIGHTS": "a"}, {}, ["WHET_SERVE_CPU_WEIGHTS", "name=value"]),
        ("", {}, {"http_prt": 1}, ["http_prt", "http_port"]),
        ("", {}, {"drain_ms": -1}, ["--drain-ms", "-1"]),
        ("", {}, {"log_level": "loud"}, ["--log-level", "loud", "debug"]),
    ],
)
def test_what_does_not_fit_is_refused_and_named(tmp_path, toml, env, flags, words):
    file = tmp_path / "whet.toml"
    file.write_text(toml)
    with pytest.raises(UsageError) as caught:
        load(ServeSettings, file, env, flags)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        load(ServeSettings, tmp_path / "nowhere.toml", {})


def test_secrets_print_as_stars_and_never_reach_an_error():
    settings = load(ServeSettings, env={"WHET_SERVE_ADMIN_TOKEN": "hunter2"})
    assert settings.admin_token == "hunter2"
    assert "hunter2" not in repr(settings)
    assert masked(settings)["admin_token"] == STARS
    assert masked(ServeSettings())["admin_token"] == ""

    class PinSettings(Settings, frozen=True, kw_only=True):
        pin: Annotated[int, about("A number nobody may see.", secret=True)] = 0

    with pytest.raises(UsageError) as caught:
        load(PinSettings, env={"WHET_PIN_PIN": "hunter2"})
    assert "hunter2" not in str(caught.value)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_foreign_variables_are_left_alone(env):
    foreign = {name: value for name, value in env.items() if not name.startswith("WHET_")}
    assert load(ServeSettings, env=foreign) == ServeSettings()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_is_described_once(kind):
    rows = fields(kind)
    assert [row.name for row in rows] == list(kind.__struct_fields__)
    assert all(row.doc.endswith(".") for row in rows)
    assert len({row.flag for row in rows}) == len({row.env for row in rows}) == len(rows)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_docs_table_holds_every_setting_as_it_is(kind):
    assert table(kind) in DOCS.read_text(), "paste the output of whet.settings.table() into docs/settings.md"


def test_the_environment_is_a_copy():
    copy = environ()
    copy["WHET_PROBE"] = "1"
    assert "WHET_PROBE" not in environ()


def test_the_cache_folder_follows_the_user():
    assert cache_folder("x", {}) == Path("x")
    assert cache_folder("", {"XDG_CACHE_HOME": "/c"}) == Path("/c/whet")
    assert cache_folder("", {"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/whet")
