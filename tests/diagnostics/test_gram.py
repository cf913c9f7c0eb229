"""The Gram matrix of a run's arms against directions that are added up, and what is made of it."""

from __future__ import annotations

import numpy as np
import pytest
from runs import TINY

import gradalign
from gradalign.alignment import pooled
from gradalign.alignment.gram import PAIR, crossed_alignment, mixture_alignment, share_of_second
from gradalign.analysis.joint import JointView
from gradalign.analysis.node_views import NodeTable, NodeView
from gradalign.analysis.whole import WholeDirection
from gradalign.errors import UsageError
from gradalign.methods import NodeBatch, get
from tests.methods.made_up import logits, thin

MIXED = "gkd:beta=0+0.5*opd"
ACROSS = "opd@demo:strong+0.5*opd@self+answer"
TASK_REWARD = "dr_grpo+0.3*opd"
METHODS = [
    "gkd:beta=0", "opd", "dr_grpo", "minillm", MIXED, ACROSS, TASK_REWARD,
    "gkd:beta=0+0*opd", "gkd:beta=0+1000000*opd", "minillm+2*opd", "mix:best",
    "mix:best:opd@demo:strong+1*opd@self+answer",
]  # fmt: skip
SETTINGS = {
    "student": "demo:student",
    "teachers": ["demo:strong", "self+answer"],
    "task": "demo:addition",
    "methods": METHODS,
    "limit": 12,
    "num_rollouts": 2,
    "nodes": 6,
    "continuations": 4,
    "shard_size": 4,
    "bootstrap_resamples": 300,
    "diagnose": ["gram"],
    "engine": "transformers",
}


@pytest.fixture(scope="module")
def run(finished_runs):
    return finished_runs.get(**SETTINGS)


@pytest.fixture(scope="module")
def gram(run):
    frame = run.table("gram")
    ends = ["first_teacher", "first_method", "second_teacher", "second_method"]
    return frame.groupby(ends, observed=True)[["product", "size", "half0", "half1"]].sum()


def product(gram, one, two, column="product"):
    key = (*one, *two)
    return gram.loc[key if key in gram.index else (*two, *one), column]


IDEAL = ("", "ideal")


def pair_sums(gram, one, two):
    columns = [
        product(gram, IDEAL, one),
        product(gram, IDEAL, two),
        product(gram, one, one),
        product(gram, one, two),
        product(gram, two, two),
        product(gram, IDEAL, IDEAL),
        product(gram, IDEAL, IDEAL, "size"),
        product(gram, one, one, "size"),
        product(gram, two, two, "size"),
    ]
    assert len(columns) == PAIR
    return np.array(columns)


def of_table(run, teacher, method):
    """The pooled alignment from an arm's own rows, which were scored as one direction."""
    rows = run.alignment[
        (run.alignment["teacher"] == teacher) & (run.alignment["method"] == method)
    ]
    return pooled(rows["dot"], rows["ideal_norm2"], rows["method_norm2"], rows["weight"])


@pytest.mark.parametrize("teacher", SETTINGS["teachers"])
@pytest.mark.parametrize(
    ("method", "first", "second", "c"),
    [
        (MIXED, "gkd:beta=0", "opd", 0.5),
        (TASK_REWARD, "dr_grpo", "opd", 0.3),
        ("minillm+2*opd", "minillm", "opd", 2.0),
        ("gkd:beta=0+0*opd", "gkd:beta=0", "opd", 0.0),
        ("gkd:beta=0+1000000*opd", "gkd:beta=0", "opd", 1e6),
    ],
)
def test_a_mixtures_alignment_is_that_of_the_matrix(run, gram, teacher, method, first, second, c):
    one = ("" if first == "dr_grpo" else teacher, first)
    sums = pair_sums(gram, one, (teacher, second))
    found = mixture_alignment(sums, c)
    if first == "minillm":  # |g*|^2 of the first is from its halves
        found *= np.sqrt(sums[5])
        rows = run.alignment.query("teacher == @teacher and method == 'minillm'")
        found /= np.sqrt((rows["weight"] * rows["ideal_norm2"]).sum())
    assert found == pytest.approx(of_table(run, teacher, method), abs=1e-9)
    if c == 0.0:
        assert found == pytest.approx(of_table(run, teacher, first), abs=1e-9)
    if c == 1e6:
        assert found == pytest.approx(of_table(run, teacher, second), abs=1e-5)


def test_a_mixture_across_teachers_is_that_of_the_matrix(run, gram):
    sums = pair_sums(gram, ("demo:strong", "opd"), ("self+answer", "opd"))
    assert mixture_alignment(sums, 0.5) == pytest.approx(of_table(run, "", ACROSS), abs=1e-9)
    row = run.summary.query("method == @ACROSS and split == 'all'").iloc[0]
    assert row["teacher"] == ""
    assert row["pooled"] == pytest.approx(mixture_alignment(sums, 0.5), abs=1e-9)


def test_stored_directions_of_a_mixture_are_the_sum(run):
    table = run.table("directions")

    def of(method):
        own = table[(table["teacher"] == "demo:strong") & (table["method"] == method)]
        return own.set_index("node_id")["direction"]

    mixed, first, second = (of(name) for name in (MIXED, "gkd:beta=0", "opd"))
    for node in mixed.index:
        np.testing.assert_allclose(mixed[node], first[node] + 0.5 * second[node], atol=1e-12)


@pytest.mark.parametrize("teacher", SETTINGS["teachers"])
def test_the_best_mixture(run, gram, teacher):
    """The row of mix:best against the coefficient of one half tried on the other, by hand."""
    frame = run.table("gram")
    order = list(run.table("questions")["question_id"].astype(str))
    halves = []
    for parity in (0, 1):
        own = [question for i, question in enumerate(order) if i % 2 == parity]
        part = frame[frame["question_id"].astype(str).isin(own)]
        ends = ["first_teacher", "first_method", "second_teacher", "second_method"]
        totals = part.groupby(ends, observed=True)[["product", "size"]].sum()
        halves.append(pair_sums(totals, (teacher, "gkd:beta=0"), (teacher, "opd")))
    wanted = crossed_alignment(np.concatenate(halves))
    row = run.summary.query("method == 'mix:best' and teacher == @teacher and split == 'all'")
    assert row["pooled"].iloc[0] == pytest.approx(wanted, abs=1e-9)
    assert row["pooled_low"].iloc[0] < wanted < row["pooled_high"].iloc[0]
    summary = run.table("diagnostics_summary")
    summary = summary[(summary["teacher"] == teacher) & (summary["mechanism"] == "gram")]
    by_name = summary[summary["variant"] == "gkd:beta=0+c*opd"].set_index("diagnostic")
    assert by_name.loc["best_alignment", "value"] == pytest.approx(wanted, abs=1e-9)
    share = share_of_second(halves[0] + halves[1])
    assert by_name.loc["best_share", "value"] == pytest.approx(share, abs=1e-9)
    low, high = by_name.loc["best_share", ["low", "high"]]
    assert 0.0 <= low <= share <= high <= 1.0


def test_the_curve_ends_at_the_arms(run):
    summary = run.table("diagnostics_summary")
    curve = summary[summary["diagnostic"] == "alignment"]
    curve = curve[curve["mechanism"] == "gram"].set_index(["teacher", "variant"])["value"]
    for teacher in SETTINGS["teachers"]:
        ends = {"0": "gkd:beta=0", "inf": "opd"}
        for c, method in ends.items():
            found = curve[teacher, f"gkd:beta=0+c*opd at {c}"]
            assert found == pytest.approx(of_table(run, teacher, method), abs=1e-9)


def test_conflicts_and_routing(run, gram):
    summary = run.table("diagnostics_summary")
    rows = summary[summary["mechanism"] == "gram"].set_index(["diagnostic", "variant"])["value"]
    one, two = ("demo:strong", "opd"), ("self+answer", "opd")
    wanted = product(gram, one, two) / np.sqrt(product(gram, one, one) * product(gram, two, two))
    assert rows["cosine", "opd, self+answer"] == pytest.approx(wanted, abs=1e-9)
    assert 0.0 <= rows["opposed_share", "opd, self+answer"] <= 1.0
    best = max(of_table(run, teacher, "opd") for teacher in SETTINGS["teachers"])
    routed = rows["routed", "opd"]
    assert rows["routing_gain", "opd"] == pytest.approx(routed - best, abs=1e-9)
    opd = summary[(summary["mechanism"] == "gram") & (summary["variant"] == "opd")]
    shares = opd[opd["diagnostic"] == "routed_share"]
    assert shares["value"].sum() == pytest.approx(1.0)
    routes = opd[opd["diagnostic"] == "route"]
    questions = run.table("questions")["question_id"].astype(str)
    assert sorted(routes["split"]) == sorted("question:" + questions)
    for row in routes.itertuples():
        own = run.alignment[run.alignment["question_id"].astype(str) == row.split[9:]]
        own = own[own["method"] == "opd"]
        gain = {
            teacher: (part["weight"] * part["dot"]).sum()
            / np.sqrt((part["weight"] * part["method_norm2"]).sum())
            for teacher, part in own.groupby("teacher", observed=True)
            if teacher in SETTINGS["teachers"]
        }
        assert max(gain, key=gain.get) == row.teacher


def test_halves_of_the_continuations_add_up(gram):
    """<g*, m> of both halves, averaged, is that of all but for how they are pooled."""
    for arm in (("demo:strong", "opd"), ("self+answer", "gkd:beta=0")):
        whole = product(gram, IDEAL, arm)
        halves = [product(gram, IDEAL, arm, name) for name in ("half0", "half1")]
        assert np.mean(halves) == pytest.approx(whole, rel=0.5)


def test_sums_in_the_weights(finished_runs):
    """A mixture's own sketch has the gain that both arms' sketches give."""
    settings = {
        **SETTINGS,
        "methods": ["gkd:beta=0", "opd", "gkd:beta=0+0.3*opd"],
        "alignment": ["weights"],
        "limit": 6,
    }
    run = finished_runs.get(**settings)
    summary = run.table("diagnostics_summary")
    gains = summary[summary["diagnostic"] == "weights_gain"]
    assert len(gains)
    for teacher in SETTINGS["teachers"]:
        own = gains[gains["teacher"] == teacher].set_index("variant")
        found = own.loc["gkd:beta=0+c*opd at 0.3"]
        row = run.summary[
            (run.summary["teacher"] == teacher)
            & (run.summary["method"] == "gkd:beta=0+0.3*opd")
            & (run.summary["split"] == "all")
        ].iloc[0]
        # Stored directions lack tokens of up to 1e-4 of their squared length: 1e-2 of the length.
        assert found["value"] == pytest.approx(row["weights_gain"], rel=1e-2)
        width = row["weights_gain_high"] - row["weights_gain_low"]
        assert found["low"] == pytest.approx(row["weights_gain_low"], abs=1e-2 * width)


def test_sums_of_teachers_that_are_not_there(tmp_path):
    settings = {**SETTINGS, "methods": ["opd@demo:weak+1*opd@demo:strong"]}
    with pytest.raises(UsageError, match="no teacher 'demo:weak'"):
        gradalign.score(**settings, output_dir=str(tmp_path / "run"))


def test_a_trainers_file_makes_the_method_of_a_run(tmp_path):
    """The run keeps the method: the file may change or go."""
    path = tmp_path / "run.sh"
    path.write_text("python train.py --use-opd --opd-kl-coef 0.5 --opd-log-prob-top-k 8\n")
    config = f"config:trainer=miles,path={path}"
    settings = {**TINY, "methods": [config, "config:trainer=nemo,path=" + str(tmp_path / "n.yaml")]}
    (tmp_path / "n.yaml").write_text("loss_fn: {kl_type: reverse}\n")
    report = gradalign.score(**settings, output_dir=str(tmp_path / "run"))
    wanted = ["dr_grpo+0.5*miles/opd_topk:top_k=8", "nemo/distillation:kl_type=reverse"]
    assert report.config.methods == wanted
    assert set(report.summary["method"]) == set(wanted)
    path.unlink()
    (tmp_path / "o.yaml").write_text("jsd_token_clip: 0.06\n")
    again = gradalign.rescore(report, methods=[f"config:trainer=opsd,path={tmp_path / 'o.yaml'}"])
    assert again.config.methods == [*wanted, "opsd:clip=0.06"]


def test_specs_of_sums():
    for spec, canonical in (
        ("dr_grpo+0.30*opd", "dr_grpo+0.3*opd"),
        ("1*gkd+2e0*opd:top_k=16", "gkd+2*opd:top_k=16"),
        ("opd@self+answer+0.5*gkd@demo:strong", "opd@self+answer+0.5*gkd@demo:strong"),
        ("mix:best:gkd:beta=0+1*opd", "mix:best"),
        ("mix:best:dr_grpo+1*opd", "mix:best:dr_grpo+1*opd"),
    ):
        assert get(spec).spec == canonical
        assert get(canonical) == get(spec)
    assert get("opd@self+answer+0.5*gkd@demo:strong").teachers == ("self+answer", "demo:strong")
    assert not get("opd@self+answer+0.5*gkd@demo:strong").of_teacher
    assert get("dr_grpo+0.3*opd").of_teacher
    for spec, words in (
        ("opd@demo:strong+1*gkd", "name their teacher"),
        ("dr_grpo@demo:strong+1*opd@demo:strong", "looks at no teacher"),
        ("mix:best:opd", "takes two methods"),
        ("mix:best:opd+1*gkd+1*dr_grpo", "takes two methods"),
        ("gkd+0.3*gkd:beta=2", "at most 1"),
    ):
        with pytest.raises(UsageError, match=words):
            get(spec)
    student, teacher, sampled = logits("far", nodes=3, vocab=5)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    for estimator in ("expected", "sampled"):
        found = get("gkd+0.5*opd").ascent(batch, estimator)
        wanted = get("gkd").ascent(batch, estimator) + 0.5 * get("opd").ascent(batch, estimator)
        np.testing.assert_allclose(found, wanted, atol=1e-14)
    half = get("gkd+0.5*opd").variance_ratio(batch) * (get("gkd+0.5*opd").ascent(batch) ** 2).sum(1)
    alone = get("opd").variance_ratio(batch) * (get("opd").ascent(batch) ** 2).sum(axis=1)
    np.testing.assert_allclose(half, 0.25 * alone)
    assert np.isnan(get("opd+1*verl/k3").variance_ratio(batch)).all()
    zero = get("opd+-1*opd").direction(batch)
    assert all(reason.startswith("zero_method:") for reason in zero.reason_N)
    with pytest.raises(UsageError, match="no direction at a node"):
        get("mix:best").ascent(batch)


def test_directions_of_different_supports_meet_on_all_tokens():
    """Two sparse views of one dense world: products over the joint support are exact."""
    student, first, sampled = logits("far", nodes=9, vocab=60)
    second = student + np.random.default_rng(5).normal(size=student.shape)
    views, dense = {}, {}
    for label, teacher, shown in (("a", first, slice(0, 8)), ("b", second, slice(2, 9))):
        rows = np.arange(9)[shown]
        batch = thin(NodeBatch.from_logits(student[rows], teacher[rows], sampled[rows]), keep=6)
        mask_NC = np.ones((len(rows), 2), dtype=bool)
        slots = np.zeros((len(rows), 2), dtype=int)
        slots[:, 1] = 1
        views[label] = NodeView(batch, rows, slots, np.zeros((len(rows), 2)), mask_NC)
        whole = WholeDirection.of(get("gkd:beta=0").ascent(batch), views[label])
        full = np.repeat((whole.tail_N / batch.num_tail_N)[:, None], 60, axis=1)
        for n in range(len(rows)):
            known = batch.ids_NS[n] >= 0
            full[n, batch.ids_NS[n][known]] = whole.ascent_NS[n][known]
        dense[label] = (whole, full)

    class Nodes:
        token_NC = np.stack([views["a"].batch.ids_NS[0][:2]] * 9)
        mask_NC = np.zeros((9, 2), dtype=bool)
        prob_NC = np.zeros((9, 2))

        def column(self, name):
            return sampled

    nodes: NodeTable = Nodes()
    joint = JointView(nodes, views)
    assert joint.view.rows.tolist() == list(range(2, 8))
    moved = {label: joint.of(whole, label) for label, (whole, _) in dense.items()}
    for one in "ab":
        for two in "ab":
            wanted = (dense[one][1][joint.rows_of(one)] * dense[two][1][joint.rows_of(two)]).sum(
                axis=1
            )
            np.testing.assert_allclose(moved[one].product(moved[two]), wanted, atol=1e-12)
