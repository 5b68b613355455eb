"""`{column}` marks of a prompt: filled where they name a column, an error where there is none, other braces left."""

from __future__ import annotations

import pytest

from omnicap_cli.core.runs.column_marks import fill_columns, has_columns
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import EngineIdentity, Item, MediaRef, Prompt, Settings
from omnicap_cli.errors import ManifestError

COLUMNS = {"title": "Two cats", "year": 1998, "empty": None, "alt text": "x", "markup": "{year}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Describe {title}.", "Describe Two cats."),
        ("{title}{year}", "Two cats1998"),
        ("[{empty}]", "[]"),
        ("{alt text}", "x"),
        ("{{title}}", "{title}"),
        ("{{{title}}}", "{Two cats}"),
        ("{markup}", "{year}"),  # what a column holds is not filled again
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ('{"a": 1}', '{"a": 1}'),
        ("{} { title } {", "{} { title } {"),
        ("{title.__class__}", None),
        ("{title!r}", "{title!r}"),
        ("{nothing}", None),
        ("", ""),
    ],
)
def test_marks_are_filled_from_columns(text, expected):
    if expected is None:
        with pytest.raises(ManifestError, match="title, year"):
            fill_columns(text, COLUMNS)
    else:
        assert fill_columns(text, COLUMNS) == expected


def test_what_needs_no_filling_is_known():
    assert has_columns("a {title}")
    assert has_columns("a {{")
    assert not has_columns(r"\frac{1}{2} and {")


def plan(user, *, fill_columns=True):
    return RequestPlan(
        prompts=[Prompt(type="natural", style="short", lang="en", system="You.", user=user, own=True)],
        engine=EngineIdentity(engine="e", model="m", revision=None, fingerprint="f"),
        settings=Settings(),
        fill_columns=fill_columns,
    )


def item(**meta):
    return Item(id="a.png", image="a.png", visuals=(MediaRef(path="a.png"),), fingerprint="1", meta=meta)


def test_each_item_is_asked_with_its_own_columns():
    (request,) = plan("What of {title}?").requests_of(item(title="cats"))
    assert request.prompt.user == "What of cats?"
    assert request.item.error is None
    (other,) = plan("What of {title}?").requests_of(item(title="dogs"))
    assert other.key != request.key
    (same,) = plan("What of {title}?").requests_of(item(title="cats", other="column"))
    assert same.key == request.key


def test_an_item_without_the_column_fails_alone():
    (request,) = plan("What of {title}?").requests_of(item(name="cats"))
    assert isinstance(request.item.error, ManifestError)
    assert "'title'" in request.item.error.message
    assert "name" in request.item.error.message


def test_the_texts_of_the_catalogue_keep_their_braces():
    (request,) = plan("Write {x}.", fill_columns=False).requests_of(item(x=1))
    assert request.prompt.user == "Write {x}."
