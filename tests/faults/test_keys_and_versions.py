"""Who may take part: certificates and keys, expired, wrong, revoked or renewed, and versions."""

import shutil
import sys
from pathlib import Path

import pytest
from live import SITES, LiveConsortium, refused, rounds, standing_in

from server.certificates import make_authority, make_server_certificate, make_site_key

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("superlink")]


def test_a_server_whose_certificate_has_ended_does_not_start_and_says_so(
    live: LiveConsortium,
) -> None:
    server = live.parties["server"]
    server.stop()
    kept = {name: (live.kit / name).read_bytes() for name in ("server.key", "server.crt")}
    try:
        make_server_certificate(
            live.kits / "authority", live.kit / "server.key", live.kit / "server.crt",
            ["localhost", "127.0.0.1"], days=0,
        )  # fmt: skip
        code, said = refused("server", "run", live.kit)
        assert code == 2
        assert "server.crt" in said and "ended on" in said and "--renew server" in said
    finally:
        for name, content in kept.items():
            (live.kit / name).write_bytes(content)


def test_a_site_speaks_to_no_server_of_another_authority(live: LiveConsortium) -> None:
    """Somebody poses as the server: the site's own certificate of the authority decides."""
    site, kit = live.parties["bayview"], live.kits / "sites/bayview"
    site.stop()
    kept, before = (kit / "ca.crt").read_bytes(), len(site.said())
    try:
        make_authority(live.folder / "other/ca.key", kit / "ca.crt", "other")
        site.start()
        live.wait(lambda: "certificate verify failed" in site.said()[before:].lower(), "a refusal")
        assert "bayview" not in live.online()
        assert "SuperNode ID" not in site.said()[before:]
    finally:
        site.stop()
        (kit / "ca.crt").write_bytes(kept)


def test_keys_that_are_unknown_revoked_or_old_stay_outside_and_a_renewed_one_comes_in(
    live: LiveConsortium,
) -> None:
    bayview, kit = live.parties["bayview"], live.kits / "sites/bayview"
    stranger = live.folder / "stranger"
    shutil.copytree(kit, stranger)
    make_site_key(stranger / "node.key", stranger / "node.pub", "stranger")
    old = live.folder / "old-kit"
    shutil.copytree(kit, old)

    bayview.stop()
    live.provision("--renew", "bayview")  # at a live server, which nobody restarts
    bayview.start()
    live.wait_for_sites(SITES)
    bayview.stop()

    for pretender in (stranger, old):
        party = live.add("bayview", kit=pretender)
        before = len(party.said())
        party.start()
        live.wait(lambda at=before, one=party: "SuperNode: ended" in one.said()[at:], "a refusal")
        assert "bayview" not in live.online()
        party.stop()
        shutil.rmtree(pretender)

    bayview = live.add("bayview")
    bayview.start()
    live.wait_for_sites(SITES)
    study = live.study("revoked-meanwhile", training__rounds=6)
    run = live.submit(study)
    live.wait_for_round(run, 1)
    live.write_file(["st-elsewhere"])
    live.provision("--revoke", "bayview")
    live.wait(lambda: "bayview: registered no more" in live.parties["server"].said(), "revocation")
    assert live.wait_for_end(run)["exit_code"] == 0
    assert rounds(run)[0]["answered"] == SITES
    assert rounds(run)[-1]["answered"] == ["st-elsewhere"]
    bayview.stop()
    live.write_file(SITES)
    live.provision()


def test_a_site_of_another_version_is_refused_for_what_it_is(
    live: LiveConsortium, tmp_path: Path
) -> None:
    older = tmp_path / "wardround-0.0.9.dist-info"
    older.mkdir()
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: wardround\nVersion: 0.0.9\n")
    site = live.parties["bayview"]
    site.stop()
    site.start(PYTHONPATH=f"{tmp_path}:{':'.join(filter(None, sys.path))}")
    live.wait_for_sites(SITES)
    run = live.submit(live.study("other-version", training__rounds=1))
    assert live.wait_for_end(run)["exit_code"] == 0
    (record,) = rounds(run)
    assert record["answered"] == ["st-elsewhere"]
    assert record["failed"] == {"bayview": "not an instruction of this version"}
    entries = [e for e in live.audit("bayview") if e["event"] == "refused"]
    assert entries[-1]["status"] == "not an instruction of this version"
    site.stop()


def test_a_study_that_was_not_approved_ends_with_the_refusals_code(live: LiveConsortium) -> None:
    files = [live.sites / name / "site.toml" for name in SITES]
    with (
        standing_in(files[0], lambda text: text.replace("approve = false", "approve = true")),
        standing_in(files[1], lambda text: text.replace("approve = false", "approve = true")),
    ):
        study = live.study("unapproved", training__rounds=1)
        code, said = refused("submit", study, "--server", live.kit, "--wait")
    assert code == 4
    assert "the study is not approved at the site" in said
