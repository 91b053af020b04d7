"""A person reads what a study would do, and decides; the decision is recorded, or nothing is."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.approvals import approval_of, audit_log
from clients.site import load_site
from federation.errors import Refused
from wardround.__main__ import cli


@pytest.fixture
def folder(tmp_path: Path, write_site):
    policy = {"require_privacy": True, "largest_epsilon": 2.0}
    return write_site(tmp_path / "bern", 20, policy=policy)


def run(*arguments: object, answer: str = ""):
    return CliRunner().invoke(cli, ["site", *map(str, arguments)], input=answer)


def test_only_a_yes_approves(folder, make_study, tmp_path):
    study = make_study("ehr", privacy={"mechanism": "dp_sgd", "epsilon": 2.0})
    file = tmp_path / "study.toml"
    file.write_text(study.to_toml())
    for answer in ("n\n", "\n"):
        refused = run("approve", folder, file, answer=answer)
        assert isinstance(refused.exception, Refused) and refused.exception.exit_code == 4
    assert not audit_log(load_site(folder)).path.exists()

    approved = run("approve", folder, file, answer="y\n")
    assert approved.exit_code == 0
    assert "epsilon 2 at delta 1e-05 for a patient" in approved.output
    assert approval_of(study, load_site(folder))
    shown = run("log", folder)
    assert "approved" in shown.output and "2 lines, each follows" in shown.output

    assert run("approve", folder, file, "--withdraw").exit_code == 0
    assert not approval_of(study, load_site(folder))


@pytest.mark.parametrize("privacy", [{}, {"mechanism": "dp_sgd", "epsilon": 2.5}])
def test_what_the_policy_refuses_cannot_be_approved(folder, make_study, tmp_path, privacy):
    study = make_study("ehr", privacy=privacy)
    file = tmp_path / "study.toml"
    file.write_text(study.to_toml())
    refused = run("approve", folder, file, "--yes")
    assert isinstance(refused.exception, Refused)
    assert "policy." in str(refused.exception)
    assert not approval_of(study, load_site(folder))
