"""The ``store`` section: where buckets are kept, and what happens while they cannot be reached."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, ValidationInfo, model_validator

from genops_extauth import notation, store_address
from genops_extauth.fields import (
    Boolean,
    CheckError,
    Complaint,
    Duration,
    Name,
    Positive,
    Section,
    Share,
    Visible,
    Word,
    between,
    setting,
    sources,
)
from genops_extauth.sources import SourceError
from genops_extauth.store_address import Target


def _store_url(places: str) -> AfterValidator:
    """Accept a store, without its password, which belongs into one of `places`."""

    def validate(text: str) -> str:
        found = store_address.target(text)
        if found.password is not None:
            raise ValueError(f"holds a password: put it into {places}, and leave it out here")
        return found.url

    return AfterValidator(validate)


class Tls(Section):
    """How a ``rediss://`` connection is secured; files are relative to this file's folder."""

    ca_file: str | None = Field(
        default=None, description="Certificates to believe, in PEM; by default the system's authorities."
    )
    cert_file: str | None = Field(default=None, description="Our certificate, where the store wants one.")
    key_file: str | None = Field(default=None, description="The key of our certificate.")
    server_name: Visible | None = Field(
        default=None, description="The name in the store's certificate, if not the host's."
    )

    def options(self, folder: Path) -> store_address.Tls:
        """Return them for a connection; relative files start at `folder`."""
        ca, certificate, key = (
            None if name is None else str(folder / name) for name in (self.ca_file, self.cert_file, self.key_file)
        )
        return store_address.Tls(ca, certificate, key, self.server_name)

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            lacking = "cert_file" if self.cert_file is None else "key_file"
            raise CheckError(((lacking,), "a certificate and its key go together: write both, or neither"))
        return self


class PerSecond(Section):
    """Another store, for the limits per second: they are hit most, and worth least after a second."""

    url: Annotated[str, _store_url("store.per_second.password_file")] = Field(description="As store.url.")
    password_file: str | None = Field(default=None, description="A file that holds its password.")
    _password: SecretStr | None = PrivateAttr(None)

    @property
    def password(self) -> SecretStr | None:
        """The password; its repr is masked."""
        return self._password

    def target(self, tls: store_address.Tls) -> Target:
        """Return where it is, and how to be let in."""
        return store_address.target(self.url, password=_text(self._password), tls=tls)

    @model_validator(mode="after")
    def _find_password(self, info: ValidationInfo) -> Self:
        self._password = _password(info, "store.per_second.password", self.password_file)
        return self


class Outage(Section):
    """What a process does while the store cannot be used."""

    # A tenth is what a customer rarely notices missing, and nobody pays for twice.
    allowance: Share = setting(
        notation.share, "10%", "The share of each bucket that a process may grant by itself, from memory."
    )
    then: Literal["open", "closed"] = Field(
        default="closed", description="What follows: open admits everybody, closed nobody. A limit may say otherwise."
    )
    processes: Positive = Field(
        default=1, description="How many run; only to tell the worst case, which is allowance times this."
    )


class Store(Section):
    """Where buckets are kept."""

    url: Annotated[str, _store_url("store.password_file or REDIS_PASSWORD")] = Field(
        default="embedded:",
        description="embedded: (a Valkey of our own, for one replica; embedded:/PATH keeps its data), "
        "redis://HOST:PORT, rediss:// (TLS), unix:///PATH, redis+sentinel://HOST:PORT,.../MASTER, "
        "redis+cluster://HOST:PORT,... or HOST:PORT.",
    )
    # Well over a healthy store's answer. Envoy's own deadline, 20 ms unless its operator says otherwise, comes first.
    timeout: Annotated[Duration, between("1ms", "10s")] = setting(
        notation.duration, "100ms", "The longest to wait for the store; the gateway's own deadline wins where earlier."
    )
    password_file: str | None = Field(
        default=None, description="A file that holds the store's password, relative to this file's folder."
    )
    sentinel_password_file: str | None = Field(default=None, description="A file that holds the sentinels' password.")
    tls: Tls = Field(default_factory=Tls)
    per_second: PerSecond | None = Field(default=None, description="Another store, for limits per second.")
    key_prefix: Name = Field(default="genops", description="What every key in the store begins with.")
    hash_tag: Word | None = Field(
        default=None,
        description="The descriptor entry whose value places a bucket in a Cluster: those of one request share a slot.",
    )
    denial_cache: Boolean = Field(
        default=True, description="Whether a refusal is repeated without asking until it could be otherwise."
    )
    outage: Outage = Field(default_factory=Outage)
    _password: SecretStr | None = PrivateAttr(None)
    _sentinel_password: SecretStr | None = PrivateAttr(None)

    @property
    def password(self) -> SecretStr | None:
        """The password, from the file or the environment; its repr is masked."""
        return self._password

    @property
    def sentinel_password(self) -> SecretStr | None:
        """The sentinels' password; its repr is masked."""
        return self._sentinel_password

    def target(self, folder: Path, url: str | None = None) -> Target:
        """Return where it is, or the `url` in its place, and how to be let in; relative files start at `folder`."""
        return store_address.target(
            url or self.url,
            password=_text(self._password),
            sentinel_password=_text(self._sentinel_password),
            tls=self.tls.options(folder),
        )

    @model_validator(mode="after")
    def _find_passwords(self, info: ValidationInfo) -> Self:
        self._password = _password(info, "store.password", self.password_file)
        self._sentinel_password = _password(info, "store.sentinel_password", self.sentinel_password_file)
        if self._password and self.url.startswith("embedded:"):
            given = "store.password_file" if self.password_file else next(iter(_given(info, "store.password")))
            where = "name the store here or in REDIS_URL"
            raise CheckError((("url",), f"{given} gives a password, and embedded: has none; {where}"))
        complaints = [*self._misplaced()]
        if complaints:
            raise CheckError(*complaints)
        return self

    def _misplaced(self) -> list[Complaint]:
        secured = self.url.startswith(("rediss:", "redis+sentinel+tls:", "redis+cluster+tls:"))
        second = self.per_second is not None and self.per_second.url.startswith("rediss:")
        found: list[Complaint] = []
        if self.tls != Tls() and not (secured or second):
            found.append((("tls",), "no url says TLS: write rediss://HOST:PORT in store.url, or leave this out"))
        if self._sentinel_password and not self.url.startswith("redis+sentinel"):
            found.append((("sentinel_password_file",), "store.url names no sentinels: leave this out"))
        if self.per_second is not None and self.per_second.url.startswith("embedded:"):
            found.append((("per_second", "url"), "a second embedded store would spare nothing: leave per_second out"))
        return found


def _text(password: SecretStr | None) -> str | None:
    return None if password is None else password.get_secret_value()


def _given(info: ValidationInfo, name: str) -> Mapping[str, SecretStr]:
    return sources(info).passwords.get(name, {})


def _password(info: ValidationInfo, name: str, file: str | None) -> SecretStr | None:
    setting_name = f"{name}_file"
    found = dict(_given(info, name))
    if file is not None:
        found[setting_name] = _read(sources(info).file, file, setting_name.rpartition(".")[2])
    if len(found) > 1:
        message = f"{' and '.join(found)} both give a password; keep one"
        raise CheckError(((setting_name.rpartition(".")[2],), message))
    return next(iter(found.values()), None)


def _read(read: Callable[[str], bytes], name: str, key: str) -> SecretStr:
    try:
        password = read(name).decode().rstrip("\r\n")
    except SourceError as error:
        raise CheckError(((key,), f"{error}; it names a file, and is not the password")) from None
    except UnicodeDecodeError:
        raise CheckError(((key,), "does not hold UTF-8 text")) from None
    if not password:
        raise CheckError(((key,), "is empty"))
    return SecretStr(password)
