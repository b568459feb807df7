"""Configuration -> generation, and from one generation to the next.

A new configuration is built into a complete `Generation` before the gate sees any of it. JWKS clients that both
configurations name are kept, so that a reload neither fetches what it has nor forgets it while an issuer is down.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from genops_extauth import issuers, jwks, key_fetch
from genops_extauth.api_key_section import ApiKeys as ApiKeySection
from genops_extauth.bearer import Bearer
from genops_extauth.credential_store import CredentialStore
from genops_extauth.declared import Domain
from genops_extauth.discovery import Discovered
from genops_extauth.gate import Authenticator, Generation
from genops_extauth.key_guesses import Guesses
from genops_extauth.key_lookup import ApiKeys
from genops_extauth.keyset import StaticKeys, from_pem, from_secret
from genops_extauth.limit_sections import RateLimits
from genops_extauth.limits import Tree
from genops_extauth.model import Telling
from genops_extauth.peer_certificates import PeerCertificates
from genops_extauth.policy import Policy
from genops_extauth.quota import Modes
from genops_extauth.revocations import Denylist, Revoked
from genops_extauth.settings import Config
from genops_extauth.tokens import Issuer, KeySource, Verifier

_Place = tuple[str, str, frozenset[str]]
"""What makes two JWKS clients the same one: issuer, URI, algorithms. How it fetches may change: it keeps its keys."""


class Generations:
    """Builds generations, and owns the JWKS clients that they read.

    `observe` is told of every fetch, by the issuer's name. `credentials` are those that the store keeps, without which
    none of them is known. Use it as an async context manager: leaving ends the clients.
    """

    def __init__(
        self, observe: Callable[[str, jwks.Fetched], None], credentials: CredentialStore | None = None
    ) -> None:
        self._observe = observe
        self._credentials = credentials
        self._stack = AsyncExitStack()
        self._clients: dict[_Place, jwks.RemoteKeys] = {}
        self._given: tuple[Domain, ...] = ()
        self.sources: Mapping[str, KeySource] = {}
        """Where the keys of each issuer of the latest generation come from."""
        self.verifier = Verifier(())
        """The verifier of the latest generation."""
        self._others = False

    @property
    def ready(self) -> bool:
        """Whether some credentials can be checked now, and what is revoked is known or was waited for long enough."""
        if self._credentials is not None and not self._credentials.ready:
            return False
        return self._others or any(source.current() is not None for source in self.sources.values())

    def status(self) -> dict[str, jwks.KeyStatus]:
        """Return the state of each issuer's keys that are fetched."""
        return {name: source.status() for name, source in self.sources.items() if isinstance(source, jwks.RemoteKeys)}

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(key_fetch.open_session())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close(self._clients.values())
        await self._stack.aclose()

    async def build(self, config: Config) -> Generation:
        """Build the generation of a configuration that is right in itself.

        It comes once each new issuer's keys were fetched, or could not be: the first requests after a reload find them.
        """
        wanted = {entry.issuer: self._source(entry) for entry in config.identity.issuers}
        remote = {name: source for name, source in wanted.items() if isinstance(source, jwks.RemoteKeys)}
        limits = config.rate_limits
        unloaded = (client.refreshed() for client in remote.values() if client.current() is None)
        await asyncio.gather(*unloaded, return_exceptions=True)  # An outage of an issuer is its tokens' matter.
        verifier = Verifier(_issuer(entry, wanted[entry.issuer]) for entry in config.identity.issuers)
        bearer = Bearer(verifier, {name: client.refreshed for name, client in remote.items()})
        generation = Generation(
            dict(self._authenticators(config, bearer)),
            policy_of(config),
            await self._compiled(config),
            Modes(limits.shadow_mode, limits.quota_mode, limits.dynamic_metadata),
            _telling(limits),
            self._revoked(config),
        )
        self.sources, self.verifier = wanted, verifier
        self._others = any(method != "jwt" for method in generation.authenticators)
        return generation

    def _authenticators(self, config: Config, bearer: Bearer) -> Iterator[tuple[str, Authenticator]]:
        identity = config.identity
        if identity.issuers:
            yield "jwt", bearer
        if identity.api_keys is not None:
            yield "api_key", self._api_keys(identity.api_keys, config)
        if identity.certificates is not None:
            yield "certificate", PeerCertificates(identity.certificates.rules(), identity.certificates.hops())

    def _api_keys(self, section: ApiKeySection, config: Config) -> ApiKeys:
        kept = self._credentials
        stored = kept if section.store else None
        if stored is not None:
            stored.lookup.adopt(section.max_stale)
        return ApiKeys(
            section.places,
            section.digest_key,
            tiers=frozenset(section.tiers or config.tiers),
            guesses=kept.guesses if kept is not None else Guesses(time.monotonic),
            held=section.records,
            lookup=stored.lookup if stored is not None else None,
            usage=stored.usage if stored is not None else None,
        )

    def _revoked(self, config: Config) -> Revoked:
        section = config.identity.revocation
        if self._credentials is None:
            return Revoked(Denylist(section.entries()), Denylist())
        self._credentials.listens = section.store
        return Revoked(Denylist(section.entries()), self._credentials.revoked if section.store else Denylist())

    async def give(self, config: Config, domains: tuple[Domain, ...]) -> Tree:
        """Take the limits that a management server gives, from now on. Raises `limit_compiler.LimitsError`."""
        tree = await asyncio.to_thread(config.tree, domains)
        self._given = domains
        return tree

    async def _compiled(self, config: Config) -> Tree:
        """Compile in a thread, for there may be thousands of limits, and calendars are read from files."""
        while True:
            given = self._given
            tree = await asyncio.to_thread(config.tree, given)
            if given is self._given:
                return tree

    async def retire(self) -> None:
        """End the clients that the latest generation does not use, once the one before it serves nobody new."""
        unused = [place for place, client in self._clients.items() if client not in self.sources.values()]
        await self._close([self._clients.pop(place) for place in unused])

    def _source(self, entry: issuers.Issuer | issuers.SecretIssuer) -> KeySource:
        algorithms = frozenset(entry.algorithms)
        if isinstance(entry, issuers.SecretIssuer):
            return StaticKeys(from_secret(entry.secret))
        if entry.keys.pem is not None:
            return StaticKeys(from_pem(entry.keys.pem, algorithms))
        how = entry.keys.jwks
        settings = jwks.Settings(how.refresh_interval, how.cooldown, how.max_stale, how.fetch_timeout)
        place = (entry.issuer, entry.keys.jwks_uri or "", algorithms)
        if place in self._clients:
            self._clients[place].adopt(settings)
        else:
            observe = partial(self._observe, entry.issuer)
            client = jwks.RemoteKeys(self._place_of(entry), settings, observe=observe)
            client.start()
            self._clients[place] = client
        return self._clients[place]

    def _place_of(self, entry: issuers.Issuer) -> jwks.Place:
        algorithms = frozenset(entry.algorithms)
        if entry.keys.jwks_uri is None:
            return Discovered(self._session, entry.issuer, algorithms)
        return key_fetch.KeysAt(self._session, entry.keys.jwks_uri, algorithms)

    async def _close(self, clients: Iterable[jwks.RemoteKeys]) -> None:
        for client in clients:
            await client.close()


def _issuer(entry: issuers.Issuer | issuers.SecretIssuer, keys: KeySource) -> Issuer:
    claims = entry.claims
    return Issuer(
        issuer=entry.issuer,
        audiences=frozenset(entry.audiences),
        algorithms=frozenset(entry.algorithms),
        keys=keys,
        claims=claims.paths,
        scopes=claims.scopes,
        roles=claims.roles,
        rules=tuple(rule.rule for rule in entry.rules),
        profile=entry.profile,
        max_lifetime=entry.max_lifetime,
        tiers=None if entry.tiers is None else frozenset(entry.tiers),
        customer_prefix=entry.customer_prefix,
        leeway=entry.leeway,
    )


def policy_of(config: Config) -> Policy:
    """Compile routes and governance."""
    identity, governance = config.identity, config.governance
    keys = identity.api_keys
    return Policy(
        routes=tuple(route.compiled(identity.methods) for route in config.routes),
        required=governance.required,
        defaults=governance.defaults,
        tiers=frozenset(config.tiers),
        default_tier=config.default_tier,
        accepted=identity.methods,
        sdk_headers=governance.sdk_headers,
        api_key_header=None if keys is None else keys.header,
        api_key_parameter=None if keys is None else keys.query,
        forward_authorization=identity.forward_authorization,
    )


def _telling(limits: RateLimits) -> Telling:
    names = limits.header_names
    return Telling(
        names=(names.limit, names.remaining, names.reset) if limits.headers else (),
        retry_after=limits.retry_after,
        ietf=limits.ietf_headers,
        body=None if limits.body == "none" else limits.body,
        metadata=limits.dynamic_metadata,
    )
