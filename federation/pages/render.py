"""From a template and its values to one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """Return a page as text; the same values give the same page.

    The page carries plotly.js once, packed, and forbids itself the network. Beside its values a
    template has ``css``, ``script``, ``plotly`` and ``json``, and may import
    ``macros.html.jinja``.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(packed_plotly()),
        json=embedded_json,
        **values,
    )


@cache
def packed_plotly() -> str:
    """plotly.js as a page carries it: gzip in base64, 2 MB in place of 5.

    The browser unpacks it (page.js).
    """
    from plotly.offline import get_plotlyjs  # 5 MB, read only when a page is written

    packed = gzip.compress(get_plotlyjs().encode(), 9, mtime=0)
    return base64.b64encode(packed).decode()


def embedded_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in.

    >>> embedded_json("</script>")
    Markup('"\\\\u003c/script>"')
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
