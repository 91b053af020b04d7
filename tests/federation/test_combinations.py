"""What can be combined with what: what is not refused runs, and what is refused says why."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import UserError
from federation.strategies import STRATEGIES
from federation.study import Study
from federation.validation import validate
from federation.vocabulary import agreed_vocabulary
from server.exchange import Exchange
from server.rounds import evaluate, run_rounds
from server.task import Task
from simulations.grids import LocalGrid

SITES = 7
SGD = {"name": "sgd", "lr": 0.1}
MECHANISMS = {
    "none": {"mechanism": "none"},
    "central": {"mechanism": "central", "epsilon": 50.0},
    "dp_sgd": {"mechanism": "dp_sgd", "epsilon": 50.0},
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory, write_site):
    folder = tmp_path_factory.mktemp("sites")
    return {
        f"site-{i}": write_site(folder / f"site-{i}", 40 + i, first_id=100 * i + 1, seed=i)
        / "site.toml"
        for i in range(SITES)
    }


@pytest.fixture(scope="module")
def grid(sites):
    """One for all studies: it keeps the cohorts that it has read."""
    grid = LocalGrid(sites)
    yield grid
    grid.close()


def run(grid, study, folder):
    grid.use_memories(folder / "personal")
    grid.use_ledgers(folder / "ledgers")
    exchange = Exchange(grid, simulated=True, members=grid.members)
    sizes = dict.fromkeys(grid.members, 20)
    task = Task(exchange, study, agreed_vocabulary(study.modalities.ehr), sizes=sizes)
    records = []
    result = run_rounds(task, on_round=lambda record, standing: records.append(record))
    return task, result, records


def document(study_document, strategy, mechanism, **more):
    """A study in which nothing but the strategy and the mechanism can be at odds."""
    training = {"rounds": 2, "batch_size": 16, "optimizer": SGD}
    options = {"name": strategy, "minimum_sites": SITES if strategy == "bulyan" else 5}
    if strategy == "fedbuff":
        options["buffer"] = 6
    if mechanism == "central":
        options["weighting"] = "uniform"
    tables = {"training": training, "strategy": options, "privacy": MECHANISMS[mechanism]}
    return study_document("ehr", **tables, **more)


def why_not(strategy, mechanism):
    """The reason in the strategies' own facts."""
    kind = STRATEGIES[strategy]
    return {"none": "", "central": kind.not_with_central, "dp_sgd": kind.not_with_dp_sgd}[mechanism]


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_runs_with_each_mechanism_or_says_why_not(
    grid, study_document, tmp_path, name, mechanism
):
    written = document(study_document, name, mechanism)
    reason = why_not(name, mechanism)
    if reason:
        with pytest.raises(UserError) as told:
            validate(Study, written, "study.toml")
        assert f'"{name}" cannot be combined with privacy.mechanism = "{mechanism}"' in str(
            told.value
        )
        assert reason in str(told.value)
        return
    study = validate(Study, written, "study.toml")
    if name == "fedbn":
        with pytest.raises(UserError, match="keeps normalisation layers at the sites, and it has"):
            run(grid, study, tmp_path)
        return
    task, result, records = run(grid, study, tmp_path)
    assert result.rounds == 2, records
    assert np.isfinite(result.weights).all()
    assert all(not record["failed"] and not record["rejected"] for record in records)
    _, failed = evaluate(task, result.weights, "tuning", 2)
    assert not failed


def complaint(study_document, **tables):
    with pytest.raises(UserError) as told:
        validate(Study, study_document("ehr", **tables), "study.toml")
    assert told.value.exit_code == 2
    return str(told.value)


NOISE = {"mechanism": "dp_sgd", "epsilon": 4.0}
CENTRAL = {"mechanism": "central", "epsilon": 4.0}
INT8, TOP_K = {"kind": "int8"}, {"kind": "top_k", "fraction": 0.1}
REFUSED = [
    ({"strategy": {"name": "scaffold"}}, 'training.optimizer = { name = "sgd"'),
    (
        {"strategy": {"name": "apfl"}, "training": {"optimizer": {**SGD, "momentum": 0.9}}},
        "without momentum",
    ),
    ({"strategy": {"name": "fednova", "weighting": "inverse_variance"}}, "its own rule"),
    ({"strategy": {"name": "fedbuff", "weighting": "inverse_variance"}}, "its own rule"),
    ({"strategy": {"name": "krum", "hostile": 2}}, "minimum_sites = 7 or more"),
    ({"strategy": {"name": "median", "weighting": "patients"}}, "each counts once"),
    ({"strategy": {"name": "afl", "weighting": "patients"}}, "each counts once"),
    ({"selection": {"keep": "best"}, "evaluation": {"every": 0}}, "evaluation.every = 1"),
    ({"selection": {"keep": "best"}, "strategy": {"name": "ditto"}}, "leave it away"),
    ({"strategy": {"name": "fedper", "ema": 0.9}}, "strategy.ema"),
    ({"strategy": {"weighting": "inverse_variance"}, "privacy": NOISE}, "gradients vary"),
    ({"personalisation": {"fine_tune_epochs": 1}, "privacy": NOISE}, "fine_tune_epochs"),
    (
        {
            "strategy": {"participation": {"kind": "power_of_choice", "candidates": 4, "sites": 2}},
            "privacy": NOISE,
        },
        "the loss of training",
    ),
    (
        {"strategy": {"screening": {"norm_ratio": 3}, "weighting": "uniform"}, "privacy": CENTRAL},
        "looks at every update",
    ),
    ({"privacy": CENTRAL}, 'strategy.weighting = "uniform"'),
    ({"strategy": {"participation": {"kind": "by_size", "sites": 2}}}, "must not weigh more"),
    ({"strategy": {"participation": {"kind": "random", "sites": 1}}}, "minimum_sites"),
    ({"strategy": {"participation": {"kind": "poisson", "sites": 3}}}, "needs fraction"),
    ({"strategy": {"participation": {"kind": "all", "sites": 3}}}, "not an option"),
    ({"strategy": {"participation": {"kind": "random"}}}, "one of them"),
    ({"strategy": {"name": "feddyn", "compression": INT8}}, "must be in step"),
    ({"strategy": {"name": "afl", "compression": INT8}}, 'use "fp16", "bf16"'),
    ({"strategy": {"name": "median", "compression": TOP_K}}, "number by number"),
    ({"strategy": {"screening": {"norm_ratio": 3}, "compression": TOP_K}}, "number by number"),
    ({"strategy": {"maximum_update_norm": 9.0, "compression": TOP_K}}, "maximum_update_norm"),
    ({"strategy": {"name": "norm_bound", "compression": TOP_K}}, "would be lost"),
    (
        {"strategy": {"weighting": "uniform", "compression": TOP_K}, "privacy": CENTRAL},
        'privacy.mechanism = "central" shortens',
    ),
    ({"strategy": {"compression": {"kind": "top_k"}}}, "needs a fraction"),
    ({"strategy": {"screening": {}}}, "give norm_ratio, least_cosine or judge"),
]


@pytest.mark.parametrize(("tables", "words"), REFUSED)
def test_what_excludes_each_other_is_refused_with_what_to_do(study_document, tables, words):
    assert words in complaint(study_document, **tables)


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("fedprx", "fedprox"), ("scafold", "scaffold"), ("q-fedavg", "qfedavg"), ("Krum", "krum")],
)
def test_unknown_strategy_names_the_nearest(study_document, given_name, meant):
    told = complaint(study_document, strategy={"name": given_name})
    assert f'strategy.name: "{given_name}" is not one of' in told
    assert f'Did you mean "{meant}"?' in told


@pytest.mark.parametrize(
    ("strategy", "field"),
    [
        ({"name": "fedprox", "mu": -0.1}, "mu"),
        ({"name": "fedprox", "mu": float("nan")}, "mu"),
        ({"name": "fedavgm", "server_momentum": 1.0}, "server_momentum"),
        ({"name": "fedadam", "tau": 0}, "tau"),
        ({"name": "fedadam", "beta_2": 1.5}, "beta_2"),
        ({"name": "feddyn", "alpha": 0}, "alpha"),
        ({"name": "qfedavg", "q": 11}, "q"),
        ({"name": "afl", "mixture_lr": 0}, "mixture_lr"),
        ({"name": "apfl", "share": 1.0}, "share"),
        ({"name": "trimmed_mean", "fraction": 0.5}, "fraction"),
        ({"name": "krum", "hostile": 0}, "hostile"),
        ({"ema": 1.0}, "ema"),
        ({"name": "fedavg", "mu": 0.1}, "mu"),
        ({"name": "scaffold", "server_momentum": 0.1}, "server_momentum"),
    ],
)
def test_an_option_out_of_range_or_of_another_strategy_is_named(study_document, strategy, field):
    assert f"strategy.{field}: " in complaint(study_document, strategy=strategy)


participation = st.one_of(
    st.just({"kind": "all"}),
    st.fixed_dictionaries({"kind": st.sampled_from(["random", "by_size"]), "sites": st.just(6)}),
    st.just({"kind": "poisson", "fraction": 0.9}),
    st.just({"kind": "power_of_choice", "candidates": 7, "sites": 6}),
)
optional = st.fixed_dictionaries(
    {},
    optional={
        "weighting": st.sampled_from(["patients", "uniform", "inverse_variance"]),
        "most_patients": st.just(25),
        "participation": participation,
        "maximum_update_norm": st.just(50.0),
        "screening": st.just({"norm_ratio": 50.0, "least_cosine": -1.0}),
        "ema": st.just(0.5),
    },
)


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    options=optional,
    mechanism=st.sampled_from(["none", "none", "central", "dp_sgd"]),
    optimizer=st.sampled_from([SGD, SGD, {"name": "adamw", "lr": 0.01}]),
    schedule=st.sampled_from([{}, {"kind": "cosine", "warmup_rounds": 1}]),
    selection=st.sampled_from([{}, {"keep": "best"}, {"patience": 1}]),
    personalisation=st.sampled_from([{}, {"fine_tune_epochs": 1}, {"calibration": "platt"}]),
)
def test_any_combination_runs_or_is_a_users_mistake(
    grid, study_document, tmp_path_factory, name, options, mechanism, optimizer, schedule,
    selection, personalisation,
):  # fmt: skip
    written = document(
        study_document, name, mechanism, selection=selection, personalisation=personalisation
    )
    written["strategy"] |= {"minimum_sites": SITES if name == "bulyan" else 5} | options
    written["training"]["optimizer"] = {**optimizer, "schedule": schedule}
    try:
        study = validate(Study, written, "study.toml")
        task, result, records = run(grid, study, tmp_path_factory.mktemp("run"))
    except UserError:
        return
    assert np.isfinite(result.weights).all()
    if options.get("participation", {}).get("kind") not in ("poisson",):
        assert result.rounds >= 1, records
    assert not any(record["failed"] for record in records)
    _, failed = evaluate(task, result.weights, "held_out")
    assert not failed


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"sampling": "balanced"}, "drawn by chance alone"),
        ({"max_grad_norm": 1.0}, "bounds that of each patient already"),
        ({"precision": "bfloat16"}, "how long each patient's gradient is"),
    ],
)
def test_what_looks_at_a_whole_batch_is_refused_with_noise_at_the_sites(make_study, training, told):
    assert make_study(training=training).training
    with pytest.raises(ValueError, match=told):
        make_study(training=training, privacy=MECHANISMS["dp_sgd"])


def test_a_rare_class_is_made_up_for_once(make_study):
    training = {"sampling": "balanced", "loss": {"class_weight": "balanced"}}
    with pytest.raises(ValueError, match="give one of them"):
        make_study(training=training)
