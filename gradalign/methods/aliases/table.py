"""The table of trainers' options (`trainers.yaml`): what each means as a method here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gradalign.errors import UnknownNameError, UsageError
from gradalign.methods.aliases.files import read_settings

_FIELD = re.compile(r"\{(1-)?([\w.]+)\}")
NOTHING = "null"


@dataclass(frozen=True)
class Version:
    """One version of a trainer that was read.

    Attributes:
        name: package and version, or commit.
        file: where its defaults stand.
        defaults: of each key.
        lines: FILE:LINE of each default that was read in source.
    """

    name: str
    file: str
    defaults: Mapping[str, Any]
    lines: Mapping[str, str]


@dataclass(frozen=True)
class Spelling:
    """What some of a trainer's settings are here.

    Attributes:
        when: key to the values at which it holds.
        when_not: key to the values at which it does not.
        method: our spelling with {key} to be filled in; None where there is none.
        values: per key, what its values are called here.
        note: what differs, as a sentence; "" for nothing.
        promise: our spelling of what the trainer's names say it is, with {key} to be filled in;
            None where that is the method itself.
    """

    when: Mapping[str, tuple[Any, ...]]
    when_not: Mapping[str, tuple[Any, ...]]
    method: str | None
    values: Mapping[str, Mapping[Any, str]]
    note: str
    promise: str | None = None

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is that of some settings."""
        return all(_among(settings.get(key), values) for key, values in self.when.items()) and (
            not self.when_not
            or not all(_among(settings.get(key), values) for key, values in self.when_not.items())
        )

    def filled(self, settings: Mapping[str, Any]) -> str:
        """Return the method with the settings put in."""
        return self._put(self.method or "", settings)

    def promised(self, settings: Mapping[str, Any]) -> str:
        """Return what the trainer's names promise, with the settings put in; "" for the method."""
        return self._put(self.promise or "", settings)

    def _put(self, text: str, settings: Mapping[str, Any]) -> str:
        def value(match: re.Match[str]) -> str:
            found = settings.get(match[2])
            if match[1]:
                return f"{1.0 - float(found or 0.0):.12g}"
            names = {_text(key): name for key, name in self.values.get(match[2], {}).items()}
            return str(names.get(_text(found), _text(found)))

        return _FIELD.sub(value, text)


@dataclass(frozen=True)
class Beside:
    """A setting that stands beside a trainer's loss and changes what it does.

    Attributes:
        key: of the trainer.
        default: its value where a file does not set it.
        line: FILE:LINE of the default; "" where it was not read.
        values: what its values mean, {theirs: ours}.
        only: settings a file must have for it to count.
    """

    key: str
    default: Any
    line: str
    values: Mapping[str, Any]
    only: Mapping[str, tuple[Any, ...]]

    def value(self, found: Mapping[str, Any]) -> Any:
        """Return what a file sets it to, or its default; None where it does not count."""
        for key, values in self.only.items():
            there, value = _value(found, (key,))
            if not there or not _among(value, values):
                return None
        there, value = _value(found, (self.key,))
        value = value if there else self.default
        return self.values.get(_text(value), value)


@dataclass(frozen=True)
class Trainer:
    """One loss of a trainer.

    Attributes:
        name: as `--trainer` and `config:trainer=` take it.
        title: in words.
        versions: newest first.
        tells: keys of which a file of this trainer has at least one.
        aliases: other names of keys.
        spellings: the first that holds counts.
        mixed: what is made of it where the trainer joins it to a policy gradient.
        weak: those of `tells` that other programs have too.
        launch: a pattern of what starts this trainer, "" for none.
        needs: settings that a file of it has, if it has them at all.
        teaches: settings without which there is no teacher; each key's allowed values.
        idle: settings at which there is no teacher, all at once.
        beside: what stands beside the loss, by what it is.
        others: settings in the loss's own section that do not change its direction.
    """

    name: str
    title: str
    versions: tuple[Version, ...]
    tells: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    spellings: tuple[Spelling, ...]
    mixed: Spelling | None
    weak: tuple[str, ...] = ()
    launch: str = ""
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    teaches: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    idle: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    beside: Mapping[str, Beside] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def version(self, asked: str = "") -> Version:
        """Return a version by a part of its name; the newest unless told.

        Raises:
            UnknownNameError: none was read whose name has that part.
        """
        for version in self.versions:
            if asked.lower() in version.name.lower():
                return version
        known = "; ".join(version.name for version in self.versions)
        raise UnknownNameError(f"{self.name} was not read at {asked!r}.", f"Known: {known}.")

    def settings(self, found: Mapping[str, Any], version: Version) -> dict[str, Any]:
        """Return the value of every key: that of a file, else the version's default.

        Raises:
            UsageError: the file has none of the keys that tell this trainer.
        """
        if not any(_value(found, (key,))[0] for key in self.tells):
            raise UsageError(
                f"no setting of {self.name} is in the file.",
                f"It has at least one of: {', '.join(self.tells)}.",
            )
        return self.filled(found, version)

    def filled(self, found: Mapping[str, Any], version: Version) -> dict[str, Any]:
        """Return the value of every key, also where the file has none of them."""
        settings = {}
        for key, default in version.defaults.items():
            there, value = _value(found, self.names(key))
            settings[key] = value if there else default
        return settings

    def names(self, key: str) -> tuple[str, ...]:
        """Return what a key is called in files."""
        return (*self.aliases.get(key, ()), key)

    def known(self) -> set[str]:
        """Return every key of this trainer that is looked at, as files have it."""
        keys = {
            name
            for version in self.versions
            for key in version.defaults
            for name in self.names(key)
        }
        keys |= {*self.tells, *self.needs, *self.teaches, *self.idle}
        for one in self.beside.values():
            keys |= {one.key, *one.only}
        return keys

    def set_keys(self, found: Mapping[str, Any]) -> dict[str, str]:
        """Return which of its keys a file sets: what the file calls it, by our key."""
        there = {}
        for key in self.known():
            for name in reversed(list(found)):
                if _is_named(name, key):
                    there[key] = name
                    break
        return there

    def idle_because(self, found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        """Return why a file has no teacher, as KEY=VALUE; "" where it has one."""

        def said(key: str, value: Any) -> str:
            there = any(_value(found, (name,))[0] for name in self.names(key))
            return f"{key}={_text(value)}{'' if there else ' by default'}"

        for key, values in self.teaches.items():
            there, value = _value(found, (key,))
            value = value if there else settings.get(key)
            if value in (None, "") or (values and not _among(value, values)):
                return said(key, value)
        if self.idle and all(_among(settings.get(key), v) for key, v in self.idle.items()):
            return ", ".join(said(key, settings.get(key)) for key in self.idle)
        return ""

    def spelling(self, settings: Mapping[str, Any]) -> Spelling | None:
        """Return the first spelling that holds; None where none does."""
        return next((one for one in self.spellings if one.holds(settings)), None)

    def spell(self, settings: Mapping[str, Any]) -> tuple[str, str]:
        """Return our spelling of some settings, and what differs.

        Raises:
            UsageError: there is none; with the reason.
        """
        spelling = self.spelling(settings)
        if spelling is not None:
            if spelling.method is None:
                raise UsageError(f"{self.name}: {spelling.note}", self._known())
            method, note = spelling.filled(settings), spelling.note
            if self.mixed is not None and self.mixed.holds(settings):
                whole = self.mixed.filled({**settings, "method": method})
                return whole, " ".join(filter(None, (note, self.mixed.note)))
            return method, note
        chosen = ", ".join(f"{key}={_text(value)}" for key, value in settings.items())
        raise UsageError(f"{self.name} with {chosen} has no spelling here.", self._known())

    def _known(self) -> str:
        return f"See gradalign methods list --trainer {self.name}."


@cache
def trainers() -> dict[str, Trainer]:
    """Return every trainer of the table by name."""
    text = (files("gradalign.methods.aliases") / "trainers.yaml").read_text(encoding="utf-8")
    return {row["trainer"]: _trainer(row) for row in yaml.safe_load(text)}


def spelled(options: Mapping[str, str]) -> str:
    """Return the method of a trainer's own file.

    Args:
        options: trainer and path, and version if not the newest.

    Raises:
        UnknownNameError: no such trainer or version.
        UsageError: an option is missing or unknown, the file is not this trainer's, or its settings
            have no spelling here.
    """
    unknown = sorted(set(options) - {"trainer", "path", "version"})
    if unknown or not {"trainer", "path"} <= set(options):
        raise UsageError(
            f"config has no option {unknown[0]!r}."
            if unknown
            else "config needs trainer and path.",
            "Write it as config:trainer=NAME,path=FILE, with version=PART for an older one.",
        )
    found = read_settings(options["path"])
    candidates = chosen(options["trainer"])
    telling = [one for one in candidates if any(_value(found, (key,))[0] for key in one.tells)]
    # Of a package's losses, the one that more of the file's keys tell.
    trainer = max(
        telling or candidates,
        key=lambda one: sum(
            _value(found, (key,))[0] for key in (*one.tells, *one.versions[0].defaults)
        ),
    )
    version = trainer.version(options.get("version", ""))
    return trainer.spell(trainer.settings(found, version))[0]


def chosen(name: str) -> list[Trainer]:
    """Return the trainer of a name, or all of a package.

    Raises:
        UnknownNameError: no such trainer.
    """
    table = trainers()
    if name in table:
        return [table[name]]
    of_package = [one for key, one in table.items() if key.partition("/")[0] == name]
    if not of_package:
        raise UnknownNameError(f"unknown trainer {name!r}.", f"Known: {', '.join(table)}.")
    return of_package


def recognised(found: Mapping[str, Any], text: str = "") -> list[Trainer]:
    """Return the trainers whose file this may be, all as likely; none where it is nobody's.

    A file is a trainer's if it starts it, or sets a key that only trainers of distillation have.
    Of several the one counts that knows more of the file's keys.

    Args:
        found: the file's settings.
        text: of the file, in which commands are looked for.
    """
    scores: dict[str, tuple[bool, bool, int]] = {}
    for name, trainer in trainers().items():
        there = trainer.set_keys(found)
        if any(
            key in there and not _among(found[there[key]], values)
            for key, values in trainer.needs.items()
        ):
            continue
        starts = bool(trainer.launch) and re.search(trainer.launch, text) is not None
        told = any(key in there for key in trainer.tells if key not in trainer.weak)
        if starts or told:
            scores[name] = (told, starts, len(there))
    best = max(scores.values(), default=None)
    return [trainers()[name] for name, score in scores.items() if score == best]


def listed(names: Iterable[Trainer]) -> list[dict[str, Any]]:
    """Return a record per trainer, for listings and for programs."""
    return [
        {
            "trainer": trainer.name,
            "title": trainer.title,
            "keys": list(trainer.tells),
            "versions": [
                {
                    "version": version.name,
                    "file": version.file,
                    "defaults": dict(version.defaults),
                    "lines": dict(version.lines),
                }
                for version in trainer.versions
            ],
            "spellings": [
                {
                    "where": _conditions(spelling) or "always",
                    "method": spelling.method,
                    "promise": spelling.promise,
                    "note": spelling.note,
                }
                for spelling in (*trainer.spellings, *filter(None, (trainer.mixed,)))
            ],
            "beside": {
                role: {"key": one.key, "default": one.default, "line": one.line}
                for role, one in trainer.beside.items()
            },
        }
        for trainer in names
    ]


def _conditions(spelling: Spelling) -> str:
    parts = [f"{key}={'|'.join(map(_text, values))}" for key, values in spelling.when.items()]
    parts += [f"not {key}={'|'.join(map(_text, v))}" for key, v in spelling.when_not.items()]
    return ", ".join(parts)


def _value(found: Mapping[str, Any], names: Iterable[str]) -> tuple[bool, Any]:
    """Look a key up by its whole dotted name or parts of it; the last one in the file counts."""
    for name in names:
        for key in reversed(list(found)):
            if _is_named(key, name):
                return True, found[key]
    return False, None


def _is_named(key: str, name: str) -> bool:
    """Whether a file's key is one of the table's, or a part of it where that is a section."""
    return f".{name}." in f".{key}."


def _among(value: Any, values: Iterable[Any]) -> bool:
    return _text(value) in {_text(other) for other in values}


def _text(value: Any) -> str:
    """Return a value as options have it: 1.0 is 1, True is true, None is null."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def _trainer(row: Mapping[str, Any]) -> Trainer:
    return Trainer(
        name=row["trainer"],
        title=row["title"],
        versions=tuple(_version(version) for version in row["versions"]),
        tells=tuple(row["tells"]),
        aliases={key: tuple(names) for key, names in row.get("aliases", {}).items()},
        spellings=tuple(_spelling(spelling) for spelling in row["spellings"]),
        mixed=_spelling(row["mixed"]) if "mixed" in row else None,
        weak=tuple(row.get("weak", ())),
        launch=row.get("launch", ""),
        needs=_conditions_of(row.get("needs", {})),
        teaches=_conditions_of(row.get("teaches", {})),
        idle=_conditions_of(row.get("idle", {})),
        beside={role: _beside(one) for role, one in row.get("beside", {}).items()},
        others=tuple(row.get("others", ())),
    )


def _beside(row: Mapping[str, Any]) -> Beside:
    default, line = row["default"]
    return Beside(
        key=row["key"],
        default=default,
        line=line or "",
        values={_text(key): value for key, value in row.get("values", {}).items()},
        only=_conditions_of(row.get("only", {})),
    )


def _conditions_of(row: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {
        key: tuple(value) if isinstance(value, list) else (value,) for key, value in row.items()
    }


def _version(row: Mapping[str, Any]) -> Version:
    def place(line: Any) -> str:
        return line if isinstance(line, str) else f"{row['file']}:{line}"

    return Version(
        name=row["version"],
        file=row["file"],
        defaults={key: value for key, (value, _) in row["defaults"].items()},
        lines={key: place(line) for key, (_, line) in row["defaults"].items() if line is not None},
    )


def _spelling(row: Mapping[str, Any]) -> Spelling:
    return Spelling(
        when=_conditions_of(row.get("when", {})),
        when_not=_conditions_of(row.get("when_not", {})),
        method=row["as"],
        values=row.get("values", {}),
        note=row.get("note", ""),
        promise=row.get("promises"),
    )
