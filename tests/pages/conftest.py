"""What a display function puts on the page."""

import pytest


@pytest.fixture
def shown(monkeypatch):
    """Calls a display function, which must display one thing and return nothing -> its HTML or Markdown."""
    import IPython.display

    def call(function, *arguments, **options):
        displayed = []
        monkeypatch.setattr(IPython.display, "display", lambda *one, **_: displayed.extend(one))
        assert function(*arguments, **options) is None
        (one,) = displayed
        return one["text/html"] if isinstance(one, dict) else one.data

    return call
