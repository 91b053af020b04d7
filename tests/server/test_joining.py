"""What a site gains by joining: paired where it scored both models, and honest where it did not."""

import numpy as np
import pytest

from federation.metrics.grid import bins_of
from federation.metrics.paired import auroc_correlation
from federation.metrics.summary import ScoreSummary
from server.joining import joining
from server.site_evaluation import Paired, SiteEvaluation


def site(rng, name, gain, patients=300):
    """A site's evaluations: of the federated model, of its own, and of both together."""
    labels = (rng.random(patients) < 0.4).astype(int)
    noise = rng.normal(size=patients)
    own = rng.normal(size=(2, patients)) * 0.3
    logits = noise + own + np.array([[1.0 + gain], [1.0]]) * labels
    scores = 1 / (1 + np.exp(-logits))
    first, second = (ScoreSummary.from_scores(one, labels) for one in scores)
    correlation = auroc_correlation(*(bins_of(one) for one in scores), labels)
    return (
        SiteEvaluation(name, {"": first}, {}),
        SiteEvaluation(name, {"": second}, {}),
        SiteEvaluation(name, {"": first}, {}, Paired(second, correlation)),
    )


@pytest.fixture
def sites():
    rng = np.random.default_rng(0)
    return {
        "gains": site(rng, "gains", 1.2),
        "loses": site(rng, "loses", -0.9),
        "neither": site(rng, "neither", 0.0),
    }


def document(sites, together=("gains", "loses", "neither")):
    return joining(
        [federated for federated, _, _ in sites.values()],
        {name: [local] for name, (_, local, _) in sites.items()},
        [sites[name][2] for name in together],
    )


def test_who_gains_and_who_loses_is_told_with_intervals(sites):
    found = document(sites)
    assert (found["gain"], found["lose"]) == (["gains"], ["loses"])
    for one in found["sites"].values():
        gap = one["federated"]["value"] - one["local"]["value"]
        assert one["paired"] is True
        assert one["difference"]["value"] == pytest.approx(gap, abs=2e-6)
    mean = found["mean"]
    assert mean["low"] < mean["value"] < mean["high"]
    values = [one["difference"]["value"] for one in found["sites"].values()]
    assert mean["value"] == pytest.approx(np.mean(values), abs=1e-5)


def test_site_that_scored_the_models_apart_is_called_unpaired_and_known_less_well(sites):
    paired = document(sites)["sites"]["gains"]
    apart = document(sites, ("loses", "neither"))["sites"]["gains"]
    assert apart["paired"] is False
    assert apart["difference"]["value"] == paired["difference"]["value"]
    assert apart["difference"]["low"] < paired["difference"]["low"] - 0.01


def test_withheld_site_and_one_without_evaluation_are_named(sites):
    reason = "fewer than 10 patients"
    withheld = SiteEvaluation("small", {}, {"": reason})
    sites["small"] = (withheld, withheld, withheld)
    found = document(sites)
    assert found["sites"]["small"] == {"suppressed": reason}
    assert "small" not in (*found["gain"], *found["lose"])


def test_site_of_one_class_has_no_difference_and_the_mean_leaves_it_out(sites):
    healthy = SiteEvaluation("one", {"": ScoreSummary.from_scores([0.2] * 12, [0] * 12)}, {})
    sites["one"] = (healthy, healthy, healthy)
    found = document(sites)
    assert found["sites"]["one"]["difference"]["reason"] == "only one class"
    del sites["one"]
    assert found["mean"] == document(sites)["mean"]
