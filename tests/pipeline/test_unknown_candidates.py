"""A finished run in which a teacher's server had said nothing of some candidates."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import SMALL

import gradalign
from gradalign.alignment.ideal import covariance, ideal_gradient, unbiased_norm2
from gradalign.estimates import Arm
from gradalign.report.node_scores import directions


def forget(folder: Path, lost: dict[str, int]) -> None:
    """Take from demo:strong its log-probability of one token at each of some nodes."""
    for path in sorted((folder / "distributions").glob("*demo-strong*.parquet")):
        table = pq.read_table(path)
        rows = table["teacher_logprobs"].to_pylist()
        tails = table["teacher_log_tail"].to_pylist()
        for row, (node, ids) in enumerate(
            zip(table["node_id"].to_pylist(), table["token_ids"].to_pylist(), strict=True)
        ):
            if node in lost:
                place = ids.index(lost[node])
                tails[row] = float(np.logaddexp(tails[row], rows[row][place]))
                rows[row][place] = None
        for name, values in (("teacher_logprobs", rows), ("teacher_log_tail", tails)):
            index = table.schema.get_field_index(name)
            field = table.schema.field(index)
            table = table.set_column(index, field, pa.array(values, type=field.type))
        pq.write_table(table, path)


@pytest.fixture(scope="module")
def forgetful(small_run, tmp_path_factory):
    """The run again after its strong teacher's server kept some candidates back, and which."""
    folder = tmp_path_factory.mktemp("forgetful") / "run"
    shutil.copytree(small_run.path, folder)
    wide = small_run.nodes[small_run.nodes["num_candidates"] >= 3]
    branches = small_run.branches
    lost = {}
    for node in wide["node_id"].astype(str).tolist()[:3]:
        own = branches[(branches["node_id"] == node) & branches["value"].notna()]
        lost[node] = int(own.sort_values("student_prob").iloc[1]["token_id"])
    assert lost
    forget(folder, lost)
    for table in ("alignment", "branch_teachers", "directions"):
        shutil.rmtree(folder / table)
    return gradalign.score(**SMALL, output_dir=str(folder)), lost


def test_they_leave_that_teachers_candidates_only(small_run, forgetful):
    again, lost = forgetful
    branches = small_run.branches
    probs = again.branch_teachers
    unknown = probs[probs["teacher_prob"].isna()]
    assert dict(zip(unknown["node_id"].astype(str), unknown["token_id"], strict=True)) == lost
    assert set(unknown["teacher"]) == {"demo:strong"}
    assert again.metadata["totals"]["unknown_candidates"] == len(lost)
    assert any("gave no probability" in line for line in again.footer())

    keys = ["node_id", "teacher", "method"]
    both = small_run.alignment.merge(again.alignment, on=keys, suffixes=("_before", "_after"))
    assert len(both) == len(small_run.alignment)
    touched = both["node_id"].astype(str).isin(lost) & (both["teacher"] == "demo:strong")
    for column in ("cosine", "dot", "ideal_norm2", "method_norm2"):
        before, after = (both[f"{column}_{when}"][~touched] for when in ("before", "after"))
        np.testing.assert_array_equal(before.to_numpy(), after.to_numpy())
    assert touched.sum() == len(lost) * 3  # gkd, opd, minillm
    for row in both[touched & (both["method"] == "gkd")].itertuples():
        node = str(row.node_id)
        own = branches[(branches["node_id"] == node) & (branches["token_id"] != lost[node])]
        own = own[own["value"].notna()]
        columns = (own[name].to_numpy()[None] for name in ("student_prob", "value", "value_var"))
        wanted = own["student_prob"].sum() ** 2 * unbiased_norm2(*columns)[0]
        assert np.isclose(row.ideal_norm2_after, wanted, atol=1e-12)


def test_pages_and_exports_show_no_other_token_s_direction(forgetful):
    """What they draw is what was compared: 0 at the candidate that nothing is known of."""
    again, lost = forgetful
    aligned = again.alignment[again.alignment["method"] == "opd"].set_index(["teacher", "node_id"])
    branches = again.branches
    seen = set()
    for shard in again.folder.files("alignment"):
        for found in directions(again, shard, [Arm("demo:strong", "opd")]):
            for n, node in enumerate(found.node_ids):
                if node not in lost:
                    continue
                own = branches[branches["node_id"] == node]
                token, m = own["token_id"].to_numpy(), found.ascent_NC[n, : len(own)]
                known = (token != lost[node]) & own["value"].notna().to_numpy()
                assert m[token == lost[node]] == 0.0
                mass = own["student_prob"].to_numpy()[known].sum()
                g = mass * ideal_gradient(
                    own["student_prob"].to_numpy()[known], own["value"].to_numpy()[known]
                )
                assert m[known] @ g == pytest.approx(aligned.loc[("demo:strong", node), "dot"])
                noise = covariance(
                    own["student_prob"].to_numpy()[known],
                    own["value_var"].clip(lower=0).to_numpy()[known],
                )
                expected = np.sqrt(m[known] @ noise @ m[known])
                assert found.dot_se_N[n] == pytest.approx(expected, abs=1e-12)
                seen.add(node)
    assert seen == lost.keys()
