"""Every error of the tree has a code on every transport; strangers' exceptions keep their text to the log."""

import http
import logging

import grpc
import pytest

from whet.errors import QueueFull, RuntimeFailed, WhetError
from whet.serve import codes


def _tree(kind=WhetError):
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


TREE = [kind for kind in _tree() if kind.__module__ == "whet.errors"]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.slug)
def test_every_kind_has_its_own_row(kind):
    assert kind in codes.HTTP
    assert 400 <= codes.HTTP[kind] < 600
    assert codes.HTTP[kind] == 499 or codes.HTTP[kind] in set(http.HTTPStatus)
    assert codes.GRPC[kind] in grpc.StatusCode.__members__
    assert codes.GRPC[kind] != "OK"


def test_no_row_is_left_over():
    assert set(codes.HTTP) == set(codes.GRPC) == set(TREE)


def test_a_kind_nobody_listed_has_its_parents_code():
    class Novel(QueueFull):
        slug = "novel"

    assert codes.http_status(Novel("x")) == 429
    assert codes.grpc_status(Novel("x")) == "RESOURCE_EXHAUSTED"


def test_full_says_when_to_come_again():
    assert codes.http_headers(QueueFull("x", 0.02)) == b"Retry-After: 1\r\n"
    assert codes.http_headers(QueueFull("x", 2.5)) == b"Retry-After: 3\r\n"
    assert codes.grpc_trailers(QueueFull("x", 0.02)) == (("grpc-retry-pushback-ms", "20"),)
    assert codes.http_headers(RuntimeFailed("x")) == b""
    assert codes.grpc_trailers(RuntimeFailed("x")) == ()


def test_a_strangers_text_goes_to_the_log_under_the_id_the_client_gets(caplog):
    with caplog.at_level(logging.ERROR):
        error = codes.known(ValueError("secret path /etc/x"))
    assert isinstance(error, RuntimeFailed)
    assert "secret" not in str(error)
    mark = str(error).rsplit(" ", 1)[1]
    assert mark in caplog.text
    assert "secret path" in caplog.text


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.slug)
def test_an_error_crosses_the_control_socket(kind):
    error = codes.from_wire({"slug": kind.slug, "message": "m"})
    assert type(error) is kind
    assert str(error) == "m"
    assert codes.to_wire(error) == {"slug": kind.slug, "message": "m"}
    assert codes.http_headers(error) is not None
