"""From a template and its values to one HTML file that needs nothing but a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(template: Path, **values: Any) -> str:
    """Return a page as text; the same values give the same page.

    The page carries plotly.js once and forbids itself the network. Beside its values a template
    has ``css``, ``script``, ``plotly`` and ``json``, and may import ``macros.html.jinja``.
    """
    from plotly.offline import get_plotlyjs  # 5 MB, read only when a page is written

    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template.name).render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
        json=embedded_json,
        **values,
    )


def embedded_json(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in.

    >>> embedded_json("</script>")
    Markup('"\\\\u003c/script>"')
    """
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))
