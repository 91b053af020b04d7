"""One file in, one folder per party out; a later change of one party touches no other."""

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from clients.site import SiteFile
from federation.errors import UserError
from federation.validation import read_toml, validate
from server.consortium import Consortium, load_consortium
from server.provision import provision

EXAMPLE = load_consortium(Path(__file__).parents[2] / "examples/consortium.toml")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    provision(EXAMPLE, tmp_path / "kits")
    return tmp_path / "kits"


def test_the_server_is_known_by_its_names_to_whoever_trusts_the_authority(out: Path) -> None:
    kit, site = out / "server", out / "sites/bayview"
    for name in ("-verify_hostname", "coordinator.example.org"), ("-verify_ip", "127.0.0.1"):
        command = ["openssl", "verify", "-CAfile", str(site / "ca.crt"), *name]
        subprocess.run([*command, str(kit / "server.crt")], check=True, capture_output=True)
    wrong = ["openssl", "verify", "-CAfile", str(site / "ca.crt"), "-verify_hostname", "other.org"]
    assert subprocess.run([*wrong, str(kit / "server.crt")], capture_output=True).returncode


def test_each_private_key_stands_in_one_kit_and_only_its_owner_may_read_it(out: Path) -> None:
    private = [
        file for file in out.rglob("*") if file.is_file() and b"PRIVATE KEY" in contents(file)
    ]
    expected = {f"sites/{name}/node.key" for name in EXAMPLE.names}
    assert {str(file.relative_to(out)) for file in private} == {
        "authority/ca.key",
        "server/server.key",
        *expected,
    }
    assert len({contents(file) for file in private}) == len(private)
    for file in private:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700, file


def test_the_server_knows_the_public_half_of_each_site_s_key(out: Path) -> None:
    for name in EXAMPLE.names:
        private = load_ssh_private_key(contents(out / f"sites/{name}/node.key"), None)
        public = load_ssh_public_key(contents(out / f"server/sites/{name}.pub"))
        form = (Encoding.OpenSSH, PublicFormat.OpenSSH)
        assert private.public_key().public_bytes(*form) == public.public_bytes(*form)


def test_the_site_file_of_a_kit_is_one(out: Path) -> None:
    file = out / "sites/millbrook/site.toml"
    assert validate(SiteFile, read_toml(file), file).site.name == "millbrook"


def test_a_kit_names_the_one_address_to_open_and_no_other_site(out: Path) -> None:
    kit = out / "sites/bayview"
    assert "`coordinator.example.org` port 8443" in (kit / "README.md").read_text()
    others = set(EXAMPLE.names) - {"bayview"}
    for file in kit.rglob("*"):
        assert not file.is_file() or not any(o.encode() in contents(file) for o in others), file


def test_a_site_more_leaves_every_other_file_as_it_was(out: Path) -> None:
    before = everything(out)
    done = provision(with_sites(*EXAMPLE.names, "eastmoor"), out)
    assert done.made == ["eastmoor"]
    after = everything(out)
    assert {path: after[path] for path in before} == before
    assert all("eastmoor" in path for path in after.keys() - before.keys())


def test_a_renewed_site_alone_gets_a_new_key_and_keeps_its_site_file(out: Path) -> None:
    (out / "sites/bayview/site.toml").write_text("# edited by the hospital\n")
    before = everything(out)
    assert provision(EXAMPLE, out, renew=("bayview",)).made == ["bayview"]
    after = everything(out)
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {
        "sites/bayview/node.key",
        "server/sites/bayview.pub",
        "authority/revoked.jsonl",
    }


def test_a_renewed_server_is_trusted_by_the_sites_as_they_are(out: Path) -> None:
    before = everything(out)
    provision(EXAMPLE, out, renew=("server",))
    after = everything(out)
    assert {path for path in after if after[path] != before[path]} == {
        "server/server.crt",
        "server/server.key",
    }
    authority = x509.load_pem_x509_certificate(contents(out / "sites/bayview/ca.crt"))
    renewed = x509.load_pem_x509_certificate(contents(out / "server/server.crt"))
    renewed.verify_directly_issued_by(authority)


def test_a_revoked_site_is_registered_no_more_and_others_stay(out: Path) -> None:
    rest = tuple(name for name in EXAMPLE.names if name != "bayview")
    before = everything(out)
    with pytest.raises(UserError, match="Take it out of the file first"):
        provision(EXAMPLE, out, revoke=("bayview",))
    assert everything(out) == before
    assert provision(with_sites(*rest), out).unlisted == ["bayview"]
    assert provision(with_sites(*rest), out, revoke=("bayview",)).revoked == ["bayview"]
    assert {file.stem for file in (out / "server/sites").iterdir()} == set(rest)
    assert not [path for path in everything(out) if "bayview" in path]
    kept = {path for path in before if "bayview" not in path}
    assert {path: everything(out)[path] for path in kept} == {path: before[path] for path in kept}


def test_kits_that_were_handed_out_and_deleted_are_not_made_again(out: Path) -> None:
    kit = out / "sites/bayview"
    for file in [file for file in kit.rglob("*") if file.is_file()]:
        file.unlink()
    assert "bayview" in provision(EXAMPLE, out).kept
    assert not (kit / "node.key").exists()


def test_a_changed_address_asks_for_a_new_certificate(out: Path) -> None:
    document = EXAMPLE.model_dump()
    document["server"]["host"] = "new.example.org"
    with pytest.raises(UserError, match=r"new\.example\.org.*\n.*--renew server"):
        provision(Consortium.model_validate(document), out)


def test_a_changed_port_is_not_passed_over(out: Path) -> None:
    server = EXAMPLE.server.model_copy(update={"port": 9443})
    with pytest.raises(UserError, match=r"server\.toml.*port 8443.*\n.*--renew server"):
        provision(EXAMPLE.model_copy(update={"server": server}), out)


def test_the_folder_of_another_consortium_is_refused(out: Path) -> None:
    document = EXAMPLE.model_dump()
    document["consortium"]["name"] = "others"
    with pytest.raises(UserError, match='holds the consortium "four-hospitals"'):
        provision(Consortium.model_validate(document), out)


def with_sites(*names: str) -> Consortium:
    return Consortium.model_validate(
        {**EXAMPLE.model_dump(), "sites": [{"name": n} for n in names]}
    )


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): contents(file)
        for file in folder.rglob("*")
        if file.is_file()
    }


def contents(file: Path) -> bytes:
    return file.read_bytes()
