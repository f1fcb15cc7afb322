"""Where paths lead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.serve.rest import route


@pytest.mark.parametrize(
    ("target", "action", "name", "version"),
    [
        (b"/", "landing", "", ""),
        (b"/v2", "metadata", "", ""),
        (b"/v2/?x=/y", "metadata", "", ""),
        (b"/v2/health/ready/", "ready", "", ""),
        (b"/v2/models/stats", "statistics", "", ""),
        (b"/v2/models/cat", "model_metadata", "cat", ""),
        (b"/v2/models/cat/infer", "infer", "cat", ""),
        (b"/v2/models/cat/versions/3/infer", "infer", "cat", "3"),
        (b"/v2/models/cat/versions/3/stats", "statistics", "cat", "3"),
        (b"/v2/models/a%2Fb%20c/ready", "model_ready", "a/b c", ""),
        (b"/v2/repository/models/cat/load", "load", "cat", ""),
        (b"/models/cat", "describe", "cat", ""),
    ],
)
def test_a_path_leads_to_an_action(target, action, name, version):
    found = route(target)
    assert (found.action, found.name, found.version) == (action, name, version)


@pytest.mark.parametrize(
    "target",
    [b"/v3", b"/v2/models/cat/explode", b"/v2/models/cat/versions", b"/models/cat/dog", b"/v2/models/%ff", b"*",
     b"/v2/repository/models/cat/explode", b"/v2/models/" + b"x" * 2000],
)  # fmt: skip
def test_other_paths_lead_nowhere(target):
    assert route(target) is None


@given(st.binary(max_size=60))
def test_any_target_is_answered(target):
    route(b"/v2/models/" + target)
    route(target)
