"""The catalogue in words, for `gradalign methods list` and `show`."""

from __future__ import annotations

import inspect

from gradalign.methods.catalogue import get, method_class, names


def describe() -> list[dict[str, str]]:
    """Return a record per method: name, formula, source, options with their defaults."""
    records = []
    for name in names():
        kind = method_class(name)
        records.append(
            {
                "name": name,
                "ascent on the logits": kind.formula,
                "source": kind.source,
                "options": ", ".join(f"{item.name}={item.default}" for item in kind.options()),
            }
        )
    return records


def explain(spec: str) -> str:
    """Return everything about one method, with the options as given.

    Raises:
        UnknownNameError: no such method.
        UsageError: an option that it does not have or cannot take.
    """
    method = get(spec)
    lines = [
        method.full_spec,
        "",
        inspect.cleandoc(type(method).__doc__ or ""),
        "",
        f"ascent:  {method.formula}",
        f"source:  {method.source}",
        f"needs:   {', '.join(sorted(method.needs)) or 'nothing but the student'}",
    ]
    options = method.options()
    if options:
        lines += ["", "options:"]
    for item in options:
        choices = f" ({'|'.join(item.choices)})" if item.choices else f" ({item.type})"
        value = getattr(method, item.name)
        lines.append(f"  {item.name}={value}{choices}: {item.help} Default: {item.default}.")
    return "\n".join(lines)
