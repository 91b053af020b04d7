"""From a consortium file to one folder per party: what each needs, and no one else's secret.

::

    DIR/authority/         ca.key, ca.crt, revoked.jsonl      stays with the coordinator, offline
    DIR/server/            ca.crt, server.crt, server.key, server.toml, sites/NAME.pub, ...
    DIR/sites/NAME/        ca.crt, node.key, connection.toml, site.toml, ...      for that hospital

A site is registered exactly while its public key lies in ``server/sites``: the running server
follows that folder, so a site is added, renewed or revoked without touching any other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined

from federation.errors import UserError
from federation.validation import read_toml
from server.certificates import (
    PUBLIC,
    make_authority,
    make_server_certificate,
    make_site_key,
    server_names,
    write_file,
)
from server.consortium import SERVER, Consortium

AUTHORITY, SITES = "authority", "sites"
SETTINGS, CONNECTION = "server.toml", "connection.toml"

SERVER_FILES = {
    "README.md": "server-readme.md.jinja",
    "wardround-server.service": "server.service.jinja",
    "compose.yaml": "compose.yaml.jinja",
}
SITE_FILES = {
    "README.md": "site-readme.md.jinja",
    "wardround-site.service": "site.service.jinja",
    "compose.yaml": "compose.yaml.jinja",
}


@dataclass
class Provisioned:
    """What was done.

    Attributes:
        made: parties whose kit was written.
        kept: parties whose kit was left as it was.
        unlisted: sites that are registered and no longer in the consortium file.
        revoked: sites that are registered no more.
    """

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)


def provision(
    consortium: Consortium,
    out: Path,
    renew: tuple[str, ...] = (),
    revoke: tuple[str, ...] = (),
) -> Provisioned:
    """Write what is missing of a consortium's authority and start kits; leave the rest alone.

    Args:
        consortium: the resolved file.
        out: a new or empty folder, or one that holds this consortium already.
        renew: parties (sites, or ``server``) that get a new key; a site's old one is void then.
        revoke: sites that are registered no more.

    Raises:
        UserError: if the folder holds something else, or a name is not of this consortium.
    """
    _check_folder(consortium, out)
    known = _registered(out)
    _check_names(consortium, known, renew, revoke)
    done = Provisioned()
    authority = out / AUTHORITY
    authority.mkdir(parents=True, exist_ok=True, mode=0o700)
    for site in revoke:
        _revoke(out, site)
        done.revoked.append(site)
    if not (authority / "ca.key").exists():
        if (out / SERVER).exists():
            raise UserError(
                authority / "ca.key",
                "the authority's key is missing, without which nothing can be signed",
                remedy="Put the authority folder back from where you keep it.",
            )
        make_authority(authority / "ca.key", authority / "ca.crt", consortium.consortium.name)
    _server(consortium, out, SERVER in renew, done)
    for site in consortium.names:
        public = out / SERVER / SITES / f"{site}.pub"
        if public.exists() and site not in renew:
            done.kept.append(site)
            continue
        if public.exists():
            _note_revoked(out, site, public)
        _site(consortium, out, site, public)
        done.made.append(site)
    done.unlisted = sorted(_registered(out) - set(consortium.names))
    return done


def _server(consortium: Consortium, out: Path, renew: bool, done: Provisioned) -> None:
    kit = out / SERVER
    hosts = list(dict.fromkeys([consortium.server.host, *consortium.server.names, "localhost"]))
    hosts += [ip for ip in ("127.0.0.1", "::1") if ip not in hosts]
    certificate = kit / "server.crt"
    if certificate.exists() and not renew:
        names, _ = server_names(certificate)
        lacking = sorted({host.rstrip(".") for host in hosts} - names)
        if lacking:
            raise UserError(
                certificate,
                f"it is not valid for {', '.join(lacking)}, which the consortium file names",
                remedy=f"Run `wardround provision` with --renew {SERVER}.",
            )
        port = read_toml(kit / SETTINGS).get("port")
        if port != consortium.server.port:
            raise UserError(
                kit / SETTINGS,
                f"the server's kit has the port {port}, and the consortium file "
                f"{consortium.server.port}",
                remedy=f"Run `wardround provision` with --renew {SERVER}, and let each site change "
                "the address in its connection.toml.",
            )
        done.kept.append(SERVER)
        return
    kit.mkdir(parents=True, exist_ok=True, mode=0o700)
    (kit / SITES).mkdir(exist_ok=True)
    until = make_server_certificate(
        out / AUTHORITY,
        kit / "server.key",
        certificate,
        hosts,
        consortium.consortium.certificate_days,
    )
    shutil.copyfile(out / AUTHORITY / "ca.crt", kit / "ca.crt")
    settings = {"consortium": consortium.consortium.name, "port": consortium.server.port}
    write_file(kit / SETTINGS, tomli_w.dumps(settings).encode(), PUBLIC)
    _render(kit, SERVER_FILES, consortium, party=SERVER, until=f"{until:%Y-%m-%d}")
    done.made.append(SERVER)


def _site(consortium: Consortium, out: Path, site: str, public: Path) -> None:
    kit = out / SITES / site
    kit.mkdir(parents=True, exist_ok=True, mode=0o700)
    (kit / "state").mkdir(exist_ok=True, mode=0o700)  # the one folder that its service may write to
    make_site_key(kit / "node.key", public, f"{site}@{consortium.consortium.name}")
    shutil.copyfile(out / AUTHORITY / "ca.crt", kit / "ca.crt")
    connection = {
        "consortium": consortium.consortium.name,
        "site": site,
        "address": consortium.address,
    }
    write_file(kit / CONNECTION, tomli_w.dumps(connection).encode(), PUBLIC)
    files = SITE_FILES
    if not (kit / "site.toml").exists():  # a hospital's own, once it is edited
        files = {**files, "site.toml": "site.toml.jinja"}
    _render(kit, files, consortium, party=site, until="")


def _render(
    kit: Path, files: dict[str, str], consortium: Consortium, party: str, until: str
) -> None:
    templates = Environment(
        loader=PackageLoader("server", "kits"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    values: dict[str, Any] = {
        "consortium": consortium.consortium.name,
        "party": party,
        "host": consortium.server.host,
        "port": consortium.server.port,
        "until": until,
        "version": version("wardround"),
    }
    for name, template in files.items():
        text = templates.get_template(template).render(values)
        write_file(kit / name, text.encode(), PUBLIC)


def _revoke(out: Path, site: str) -> None:
    public = out / SERVER / SITES / f"{site}.pub"
    _note_revoked(out, site, public)
    public.unlink()
    shutil.rmtree(out / SITES / site, ignore_errors=True)


def _note_revoked(out: Path, site: str, public: Path) -> None:
    """Keep what was revoked and when: the key itself is in no folder any more."""
    line = {
        "site": site,
        "key": hashlib.sha256(public.read_bytes().split()[1]).hexdigest(),
        "revoked": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with (out / AUTHORITY / "revoked.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _registered(out: Path) -> set[str]:
    return {file.stem for file in (out / SERVER / SITES).glob("*.pub")}


def _check_folder(consortium: Consortium, out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    settings = out / SERVER / SETTINGS
    if not settings.exists():
        raise UserError(
            out,
            "is in use: expected a new or empty folder, or one that holds this consortium",
            remedy="Give another --out.",
        )
    other = read_toml(settings).get("consortium")
    if other != consortium.consortium.name:
        raise UserError(
            out,
            f'it holds the consortium "{other}", not "{consortium.consortium.name}"',
            remedy="Give each consortium a folder of its own.",
        )


def _check_names(
    consortium: Consortium, known: set[str], renew: tuple[str, ...], revoke: tuple[str, ...]
) -> None:
    for name in renew:
        if name != SERVER and name not in consortium.names:
            raise UserError("--renew", f'no site of the consortium file is called "{name}"')
    for name in revoke:
        if name not in known:
            raise UserError("--revoke", f'no registered site is called "{name}"')
        if name in consortium.names:
            raise UserError(
                "--revoke",
                f'"{name}" stands in the consortium file and would get a new key at once',
                remedy="Take it out of the file first; --renew replaces a key that was lost.",
            )
