"""`read_report`: a run folder as pandas DataFrames, each read when it is first asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradalign.config import ScoreConfig
from gradalign.errors import RunError, UsageError
from gradalign.report.summary_notes import remarks
from gradalign.report.unfinished import refuse_unfinished, unfinished
from gradalign.store.folder import RunFolder
from gradalign.store.schema import SCHEMA_VERSION, schema, table_names

if TYPE_CHECKING:
    import pandas as pd

    from gradalign.estimates import Arm
    from gradalign.rehearsal.curves import Point
    from gradalign.report.gate import Outcome
    from gradalign.report.plots import Plots
    from gradalign.report.verdict import Recommendation


class Report:
    """A finished (or unfinished) run.

    Every table of the run is an attribute that reads it as a pandas DataFrame and keeps it:
    `summary`, `alignment`, `nodes`, `branches`, `spines`, `tokens`, `questions` and, for
    closer looks, `distributions`, `continuations` and `branch_teachers`. The columns are
    explained by `gradalign.store.schema.meaning(table, column)`. `plot` draws, `recommend`
    judges, `check` tries conditions, `export` writes token weights, `to_html` a page; a notebook
    shows the summary as a table.

    A file that cannot be read is named in a warning, and the rest opens. Columns that a run of
    an older schema version lacks are there, empty.

    Args:
        path: folder or fsspec URL that `gradalign score` wrote.

    Raises:
        RunError: no run is there, or one of a version that this gradalign does not read.
    """

    def __init__(self, path: str) -> None:
        self.path = str(path)
        self._folder = RunFolder(self.path)
        self._torn_questions = False
        self.metadata: dict[str, Any] = self._read_metadata()
        version = str(self.metadata.get("schema_version", ""))
        if version != SCHEMA_VERSION:
            writer = self.metadata.get("versions", {}).get("gradalign", "version unknown")
            raise RunError(
                f"{self.path} was written with schema version {version or 'unknown'}, this "
                f"gradalign reads version {SCHEMA_VERSION}.",
                f"Upgrade gradalign, or read it with the one that wrote it ({writer}).",
            )

    def _read_metadata(self) -> dict[str, Any]:
        """Read run.json; where it is torn, the tables beside it still open."""
        try:
            data = self._folder.read_json("run.json")
        except RunError as error:
            if not self._folder.exists("run.json") or not self._folder.contents():
                raise
            if not any(self._folder.files(name) for name in ("questions", "spines", "nodes")):
                raise
            warnings.warn(f"{error.message} The tables are read without it.", stacklevel=4)
            return {"schema_version": SCHEMA_VERSION, "status": "unknown: run.json is torn"}
        if not isinstance(data, dict) or "schema_version" not in data:
            raise RunError(
                f"{self.path} holds a run.json that gradalign did not write.",
                "Give the folder that `gradalign score` wrote.",
            )
        return data

    @cached_property
    def config(self) -> ScoreConfig:
        """The settings of the run."""
        if "config" not in self.metadata:
            raise RunError(f"{self.path}/run.json is torn.", "Restore it to know the settings.")
        return ScoreConfig.build(dict(self.metadata["config"]))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per teacher, method and split, with intervals: the result."""
        path = self._folder.path("summary.parquet")
        if not self._folder.exists("summary.parquet"):
            raise unfinished(self._folder, self.metadata)
        kind = schema("summary")
        try:
            with self._folder.open_parquet(path) as file:
                return _plain(_conform(file.read(), kind).to_pandas())
        except (OSError, pa.ArrowException) as error:
            warnings.warn(f"{path} is torn, summary.json is read instead: {error}", stacklevel=2)
        rows = pa.Table.from_pylist(self._folder.read_json("summary.json"))
        return _plain(_conform(rows, kind).to_pandas())

    def check_finished(self) -> None:
        """Refuse to judge a run that has work left: what is there is a part of it.

        Raises:
            RunError: it is not finished; with the stage that comes next, and the command.
        """
        refuse_unfinished(self._folder, self.metadata)

    @property
    def has_summary(self) -> bool:
        """Whether the run got as far as its summary."""
        return self._folder.exists("summary.parquet")

    @property
    def folder(self) -> RunFolder:
        """The files of the run."""
        return self._folder

    @cached_property
    def questions(self) -> pd.DataFrame:
        """A row per question."""
        return self.table("questions")

    @cached_property
    def spines(self) -> pd.DataFrame:
        """A row per sampled response, with its reward."""
        return self.table("spines")

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """A row per response position and teacher."""
        return self.table("tokens")

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """A row per node: value, ideal gradient, coverage."""
        return self.table("nodes")

    @cached_property
    def branches(self) -> pd.DataFrame:
        """A row per node and candidate: P and V."""
        return self.table("branches")

    @cached_property
    def branch_teachers(self) -> pd.DataFrame:
        """A row per node, candidate and teacher: Q."""
        return self.table("branch_teachers")

    @cached_property
    def alignment(self) -> pd.DataFrame:
        """A row per node, teacher and method."""
        return self.table("alignment")

    @cached_property
    def diagnostics(self) -> pd.DataFrame:
        """A row per node and teacher: overlap, entropy gap, divergences."""
        return self.table("diagnostics")

    @cached_property
    def diagnostics_summary(self) -> pd.DataFrame:
        """A row per teacher, diagnostic and split, with intervals, and what to do about it."""
        return self.table("diagnostics_summary")

    @cached_property
    def rehearsal(self) -> pd.DataFrame:
        """A row per teacher, method and number of steps: rehearsed gain and success, and trust."""
        from gradalign.rehearsal.curves import table_of

        return table_of(self.curves)

    @cached_property
    def curves(self) -> dict[Arm, list[Point]]:
        """Rehearsed success of every arm over the steps of its training; none was asked for: {}."""
        from gradalign.rehearsal.curves import curves_of

        if not self.metadata.get("config", {}).get("rehearse"):
            return {}
        spines = self.table("spines", ["question_id", "reward"])
        reward = spines.groupby(spines["question_id"].astype(str))["reward"].mean()
        return curves_of(self.table("rehearsals"), reward)

    @cached_property
    def distributions(self) -> pd.DataFrame:
        """A row per node and teacher: P and Q on the kept tokens."""
        return self.table("distributions")

    @cached_property
    def continuations(self) -> pd.DataFrame:
        """A row per targeted rollout."""
        return self.table("continuations")

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        question_id: str | None = None,
    ) -> pd.DataFrame:
        """Read a table, or some of its columns, or one question's rows.

        A file that cannot be read is named in a warning and left out.

        Raises:
            UsageError: no such table or column, or no such question.
        """
        if name not in table_names():
            raise UsageError(f"no table {name!r}.", f"Known: {', '.join(table_names())}.")
        kind = schema(name)
        wanted = list(columns) if columns is not None else kind.names
        unknown = [column for column in wanted if column not in kind.names]
        if unknown:
            raise UsageError(
                f"table {name} has no column {unknown[0]!r}.", f"Known: {', '.join(kind.names)}."
            )
        subset = pa.schema([kind.field(column) for column in wanted])
        files = self._folder.files(name)
        if question_id is not None:
            shard = self._shard_of_question(question_id)
            files = [file_name for file_name in files if file_name.startswith(shard)]
        parts = []
        for file_name in files:
            path = self._folder.path(name, f"{file_name}.parquet")
            try:
                with self._folder.open_parquet(path) as file:
                    parts.append(_read(file, subset, question_id))
            except (OSError, pa.ArrowException) as error:
                warnings.warn(f"{path} is torn and was left out: {error}", stacklevel=2)
        joined = pa.concat_tables(parts) if parts else subset.empty_table()
        return _plain(joined.unify_dictionaries().to_pandas(self_destruct=True))

    def _shard_of_question(self, question_id: str) -> str:
        """Return the shard that holds a question; "" (all of them) where that is not known."""
        if question_id in self._shard_of:
            return self._shard_of[question_id]
        if self._torn_questions:
            return ""
        some = ", ".join(list(self._shard_of)[:5])
        raise UsageError(f"{self.path} has no question {question_id!r}.", f"It has {some}, ... .")

    @cached_property
    def _shard_of(self) -> dict[str, str]:
        """Question id to the name of its shard, in the order of the run."""
        found: dict[str, str] = {}
        for shard in self._folder.files("questions"):
            path = self._folder.path("questions", f"{shard}.parquet")
            try:
                with self._folder.open_parquet(path) as file:
                    ids = file.read(columns=["question_id"])["question_id"]
            except (OSError, pa.ArrowException) as error:
                warnings.warn(f"{path} is torn and was left out: {error}", stacklevel=2)
                self._torn_questions = True
                continue
            found.update({str(value): shard for value in ids.to_pylist()})
        return found

    @property
    def question_ids(self) -> list[str]:
        """Every question's id, in the order of the run."""
        return list(self._shard_of)

    def shards(self, question_ids: Iterable[str]) -> dict[str, list[str]]:
        """Group questions by the shard whose files hold them."""
        groups: dict[str, list[str]] = {}
        for question_id in question_ids:
            groups.setdefault(self._shard_of_question(question_id), []).append(question_id)
        return groups

    def footer(self) -> list[str]:
        """Return the remarks that belong under the summary."""
        summary = self.summary if self._folder.exists("summary.parquet") else None
        return remarks(self.path, self.metadata, summary)

    @property
    def plot(self) -> Plots:
        """Figures for notebooks: `report.plot.methods()`, `.positions()`, `.tokens()`, ..."""
        from gradalign.report.plots import Plots

        return Plots(self)

    def recommend(self, *, level: float = 0.95) -> Recommendation:
        """Rank teachers, contexts and methods, with paired significance on the same nodes.

        Args:
            level: confidence of each family of comparisons.
        """
        from gradalign.report.verdict import recommend

        return recommend(self, level=level)

    def check(self, conditions: str | Sequence[str]) -> list[Outcome]:
        """Try conditions on the summary, as `gradalign check --fail-under` does.

        Args:
            conditions: one or several, such as `pooled_low[gkd@demo:strong,incorrect]>=0.1`.

        Returns:
            An outcome per condition and matching teacher and method; `passed` says whether it
            holds.

        Raises:
            UsageError: there is none, one cannot be read, or nothing in the run matches it.
        """
        from gradalign.report.gate import check

        several = [conditions] if isinstance(conditions, str) else list(conditions)
        if not several:
            raise UsageError("nothing to check.", "Give at least one condition.")
        return check(self, several)

    def export(
        self,
        path: str,
        *,
        file_format: Literal["parquet", "jsonl"] = "parquet",
        teacher: str | None = None,
        method: str | None = None,
        rule: Literal["keep", "drop", "scale"] = "keep",
        score: Literal["estimate", "bound", "weights"] = "estimate",
        threshold: float = 0.0,
        elsewhere: float | None = None,
        spines: Literal["all", "correct", "incorrect", "aligned"] = "all",
        confidence: float = 0.95,
    ) -> dict[str, float]:
        """Write one row per response with a weight per token, for selective distillation.

        Args:
            path: the file.
            file_format: parquet or jsonl.
            teacher: whose update is weighted; the best arm's by default.
            method: of which method; the best one of the teacher by default.
            rule: weight 1 above the threshold, else 0 (`keep`); 0 below it, else 1 (`drop`);
                or the score itself, cut off at 0 and 1 (`scale`).
            score: the cosine itself (`estimate`), or the careful end of its one-sided interval
                (`bound`), or what other questions gain if the weights follow the token, over
                the mean size of that (`weights`).
            threshold: what scores are compared with, in [-1, 1].
            elsewhere: weight of positions without a score; None for the rule's own: 0 for keep,
                1 for drop, the mean weight for scale.
            spines: which responses keep any weight; `aligned`: those above the threshold.
            confidence: of the one-sided interval, in [0.5, 1).

        Returns:
            Counts: responses, tokens, scored tokens, and the mean weight.

        Raises:
            UsageError: a setting cannot be used, or the run has no such teacher or method.
            RunError: the file cannot be written.
        """
        from gradalign.report.export import ExportSettings, export

        settings = ExportSettings(rule, score, threshold, elsewhere, spines, confidence)
        return export(
            self, path, file_format=file_format, teacher=teacher, method=method, settings=settings
        )

    def to_html(self, path: str | None = None, *, max_spines: int = 200) -> str:
        """Write the run as one self-contained HTML page.

        Args:
            path: the file; by default report.html in the run's folder, or in the working folder
                if the run is not on this machine.
            max_spines: show at most this many responses, and at most 8 MB.

        Returns:
            The file's path.

        Raises:
            UsageError: `max_spines` is below 1.
            RunError: the file cannot be written, or is there and is no page of gradalign's.
        """
        from gradalign.report.page import page_path, write_page

        if max_spines < 1:
            raise UsageError(f"max_spines {max_spines} is not 1 or more.")
        path = path or page_path(self)
        write_page(self, path, max_spines=max_spines)
        return path

    def __repr__(self) -> str:
        status = self.metadata.get("status")
        return f"Report({self.path!r}, {self.metadata.get('num_questions')} questions, {status})"

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        from gradalign.report.notebook import summary_html

        return summary_html(self)


def read_report(path: str) -> Report:
    """Open a run folder; see Report."""
    return Report(path)


def _read(file: pq.ParquetFile, subset: pa.Schema, question_id: str | None) -> pa.Table:
    """Read a file's columns (null where an older version has none), or one question's rows."""
    there = set(file.schema_arrow.names)
    extra = [] if question_id is None or "question_id" in subset.names else ["question_id"]
    table = file.read(columns=[name for name in [*subset.names, *extra] if name in there])
    if question_id is not None:
        table = table.filter(pc.equal(table["question_id"].cast(pa.string()), question_id))
    return _conform(table, subset)


def _conform(table: pa.Table, kind: pa.Schema) -> pa.Table:
    """Give a table this version's columns and types."""
    return pa.table(
        [
            table[field.name].cast(field.type)
            if field.name in table.schema.names
            else pa.nulls(len(table), _value_type(field.type)).cast(field.type)
            for field in kind
        ],
        schema=kind,
    )


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn key columns into plain strings where a dictionary would surprise a user."""
    for column in ("teacher", "method", "split"):
        if column in frame:
            frame[column] = frame[column].astype(object)
    return frame
