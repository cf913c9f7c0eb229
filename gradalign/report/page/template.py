"""How a page is put together: templates, scripts, plotly.js, and data that scripts unpack.

Model output reaches a page in two ways only: through jinja2's autoescape, and inside a base64
block that the page's own script unpacks and writes as text, never as markup.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gradalign.errors import RunError
from gradalign.store.output_file import is_page, replacing


def fill(template: str, scripts: tuple[str, ...], data: dict[str, Any], **values: Any) -> str:
    """Return a page.

    Args:
        template: file of the folder `templates`.
        scripts: files of that folder, run in this order after `base.js`.
        data: plain values for the scripts; no NaN.
        values: for the template.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("gradalign.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return environment.get_template(template).render(
        style=Markup(_read("templates", "page.css")),
        script=Markup("\n".join(_read("templates", name) for name in ("base.js", *scripts))),
        plotly=_plotly(),
        data=_packed(text),
        **values,
    )


@contextmanager
def page_file(path: str) -> Iterator[Path]:
    """Yield where to write a page; what is no page of ours is not written over.

    Raises:
        RunError: the file cannot be written, or is there and is no page of ours.
    """
    try:
        with replacing(path, is_page) as target:
            yield Path(target)
    except RunError:  # which is an OSError too
        raise
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}.", "Give another --output."
        ) from error


@cache
def _plotly() -> str:
    return _packed(_read("third_party", "plotly-basic.min.js"))


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _read(*path: str) -> str:
    return files("gradalign.report.page").joinpath(*path).read_text(encoding="utf-8")
