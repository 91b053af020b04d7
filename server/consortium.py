"""The consortium file: who takes part, and where the sites find the coordinator."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from federation.errors import UserError
from federation.validation import Section, read_toml, validate

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]

SERVER = "server"
"""What the coordinator's kit is called; no site may have this name."""

HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")


class ConsortiumSection(Section):
    """The consortium as a whole."""

    name: Name
    certificate_days: int = Field(default=365, ge=1, le=825)
    """For how long the server's certificate is valid; the authority's own is for ten years."""


class ServerSection(Section):
    """The coordinator's machine, as the sites reach it.

    ``host`` is a DNS name or an IP address; ``names`` are others under which the certificate is
    valid as well.
    """

    host: str
    port: int = Field(default=8443, ge=1, le=65535)
    names: tuple[str, ...] = ()

    @field_validator("host")
    @classmethod
    def _a_host(cls, host: str) -> str:
        return _checked(host)

    @field_validator("names")
    @classmethod
    def _hosts(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_checked, names))


class SiteEntry(Section):
    """A hospital; whatever else is known of it stands in its own site file."""

    name: Name


class RehearsalSection(Section):
    """What ``wardround rehearse`` plays: the study, its path relative to the consortium file."""

    study: str
    patients: int = Field(default=80, ge=20, le=10_000)
    seed: int = Field(default=1, ge=0, lt=2**63)


class Consortium(Section):
    """The whole of the consortium file."""

    consortium: ConsortiumSection
    server: ServerSection
    sites: tuple[SiteEntry, ...] = Field(min_length=1, max_length=1000)
    rehearsal: RehearsalSection | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' names, in the file's order."""
        return tuple(site.name for site in self.sites)

    @property
    def address(self) -> str:
        """The one address that sites connect to, ``host:port``."""
        host = self.server.host
        return f"[{host}]:{self.server.port}" if ":" in host else f"{host}:{self.server.port}"

    @model_validator(mode="after")
    def _one_name_each(self) -> Consortium:
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise ValueError(f'"{min(twice)}" is the name of two sites')
        if SERVER in self.names:
            raise ValueError(f'no site can be called "{SERVER}"')
        return self


def load_consortium(file: Path) -> Consortium:
    """Read and check a consortium file.

    Raises:
        UserError: naming the file and the field.
    """
    if file.is_dir():
        raise UserError(file, "this is a folder; a consortium file (TOML) was expected")
    return validate(Consortium, read_toml(file), file)


def _checked(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not HOST.fullmatch(host):
            raise ValueError("neither a DNS name nor an IP address") from None
    return host
