"""Advice claims only what an interval supports."""

from __future__ import annotations

from gradalign.diagnostics import contexts, horizon, overlap, predictors, prefix, topk
from gradalign.estimates import Estimate

SURE_LOSS = Estimate(-0.4, -0.6, -0.2)
UNSURE = Estimate(0.1, -0.2, 0.4)
NEAR = Estimate(0.99, 0.98, 1.0)


def test_overlap():
    assert "warm the student up" in overlap.overlap_advice(Estimate(0.5, 0.4, 0.6)).text
    assert "another cause" in overlap.overlap_advice(NEAR).text
    assert "more questions" in overlap.overlap_advice(Estimate(0.9, 0.8, 0.97)).text


def test_topk_never_recommends_the_biased_form():
    gain = {(1, "biased"): SURE_LOSS, (16, "biased"): UNSURE, (16, "renorm"): UNSURE}
    cosine = {(1, "biased"): SURE_LOSS, (16, "biased"): NEAR, (16, "renorm"): NEAR}
    text = topk.topk_advice(gain, cosine).text
    assert "biased top-k loss turns the update around at k = 1:" in text
    assert "k = 16, renorm" in text
    partly = cosine | {(1, "biased"): UNSURE}
    assert "biased top-k loss costs alignment at k = 1:" in topk.topk_advice(gain, partly).text
    # At k = 4 the repaired forms lose as surely: it is not the bias.
    gain |= {(4, "biased"): SURE_LOSS, (4, "renorm"): SURE_LOSS}
    cosine |= {(4, "biased"): UNSURE, (4, "renorm"): UNSURE}
    text = topk.topk_advice(gain, cosine).text
    assert "turns the update around at k = 1:" in text
    assert "Truncation itself costs alignment at k = 4:" in text
    assert "use it whole" in topk.topk_advice(gain, dict.fromkeys(gain, UNSURE)).text
    assert "Too few" in topk.topk_advice({}, {}).text


def test_contexts():
    conflict = Estimate(0.7, 0.5, 0.9)
    assert (
        "contradict" in contexts.contexts_advice(Estimate(0.2, 0.1, 0.3), conflict, "instance").text
    )
    assert "agree" in contexts.contexts_advice(Estimate(0.9, 0.8, 0.95), conflict, "all").text
    assert (
        "more questions" in contexts.contexts_advice(Estimate(0.5, 0.2, 0.8), conflict, "all").text
    )


def test_horizon():
    noise = {0.0: Estimate(2, 1, 3), 1.0: Estimate(10, 8, 12)}
    good = {0.0: Estimate(0.3, 0.1, 0.5), 1.0: Estimate(0.6, 0.4, 0.8)}
    pays = horizon.horizon_advice({1.0: Estimate(0.3, 0.2, 0.4)}, noise, good).text
    assert "gamma = 1 gains" in pays
    assert "Its one-sample estimator is 5 times as noisy" in pays
    # The price is that of the gamma that is recommended.
    noise[0.9] = Estimate(4, 3, 5)
    good[0.9] = good[1.0]
    both = {0.9: Estimate(0.4, 0.3, 0.5), 1.0: Estimate(0.3, 0.2, 0.4)}
    assert "gamma = 0.9 gains" in horizon.horizon_advice(both, noise, good).text
    assert "2 times as noisy" in horizon.horizon_advice(both, noise, good).text
    stay = horizon.horizon_advice({1.0: UNSURE}, noise, good).text
    assert "stay at the token level" in stay
    assert "At gamma = 1 the one-sample estimator is 5 times" in stay
    assert "costs alignment" in horizon.horizon_advice({1.0: SURE_LOSS}, noise, good).text
    assert "--only horizon" in horizon.horizon_advice({}, {0.0: noise[0.0]}, good).text
    less_bad = {0.0: SURE_LOSS, 1.0: UNSURE}
    mended = horizon.horizon_advice({1.0: Estimate(0.3, 0.2, 0.4)}, noise, less_bad).text
    assert "not surely above 0 (+0.10 [-0.20, +0.40]): take another" in mended
    bad = dict.fromkeys(good, SURE_LOSS)
    assert "take another" in horizon.horizon_advice({1.0: Estimate(0.3, 0.2, 0.4)}, noise, bad).text


def test_signal_and_special_tokens():
    late = {"position:0-25%": UNSURE, "position:75-100%": SURE_LOSS}
    lopsided = horizon.signal_advice(Estimate(0.9, 0.8, 0.95), late).text
    assert "pushed down" in lopsided
    everywhere = horizon.signal_advice(Estimate(0.5, 0.4, 0.6), dict.fromkeys(late, SURE_LOSS)).text
    assert "along the whole response" in everywhere
    assert "position:75-100%: mask" in lopsided
    assert (
        "balanced"
        in horizon.signal_advice(Estimate(0.5, 0.4, 0.6), {"position:0-25%": UNSURE}).text
    )
    assert "Mask them" in horizon.special_advice(Estimate(0.2, 0.1, 0.3)).text
    assert "keep them" in horizon.special_advice(UNSURE).text


def test_predictors():
    assert "Nothing cheap predicts the alignment of opd" in (
        predictors.predictors_advice(["opd"], "", UNSURE).text
    )
    one = predictors.predictors_advice(["opd"], "reverse_kl", SURE_LOSS).text
    assert "of opd is better where reverse_kl is low" in one
    assert " for opd)" not in one
    two = predictors.predictors_advice(["gkd", "opd"], "position", Estimate(0.4, 0.2, 0.6)).text
    assert "of gkd, opd is better where position is high" in two
    assert "[+0.20, +0.60] for gkd)" in two


def test_prefix():
    loss, edge = Estimate(0.4, 0.2, 0.6), Estimate(0.3, 0.1, 0.5)
    assert "still beats" in prefix.prefix_advice({0.5: loss}, {0.5: edge}).text
    assert "From 50% on" in prefix.prefix_advice({0.5: loss}, {0.5: UNSURE}).text
    nothing = Estimate(0.0, -0.01, 0.02)
    assert "as well as from scratch" in prefix.prefix_advice({0.5: nothing}, {0.5: edge}).text
    assert "score more" in prefix.prefix_advice({0.5: UNSURE}, {0.5: edge}).text
    assert "do not distill" in prefix.prefix_advice({0.5: nothing}, {0.5: SURE_LOSS}).text
