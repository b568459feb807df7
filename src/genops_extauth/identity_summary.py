"""What a configuration says of identity, in lines for people: `check-config`."""

from collections.abc import Iterator

from genops_extauth.api_key_section import ApiKeys
from genops_extauth.certificate_section import Certificates
from genops_extauth.issuers import Issuer, SecretIssuer
from genops_extauth.route_sections import Route
from genops_extauth.settings import Config


def believed(config: Config) -> Iterator[str]:
    """Return a line for each way to say who one is, for what must be known, and for each route."""
    identity, governance = config.identity, config.governance
    yield from map(_issuer, identity.issuers)
    if identity.api_keys is not None:
        yield _api_keys(identity.api_keys)
    if identity.certificates is not None:
        yield from _certificates(identity.certificates)
    revoked = identity.revocation
    listed = len([*revoked.entries()])
    yield f"revoked: {listed} listed here{', and what the store lists' if revoked.store else ''}"
    defaults = ", ".join(f"{name}={value}" for name, value in governance.defaults.items())
    yield f"requires {', '.join(governance.required) or 'no attribute'}; defaults {defaults or 'none'}"
    yield from map(_route, config.routes)
    kinds = ", ".join(identity.methods)
    yield f"everything else: one of {kinds}"


def _issuer(issuer: Issuer | SecretIssuer) -> str:
    granted = "all tiers" if issuer.tiers is None else f"tiers {', '.join(issuer.tiers) or 'none'}"
    prefix = f", customers {issuer.customer_prefix}*" if issuer.customer_prefix else ""
    rules = f", {len(issuer.rules)} rules" if issuer.rules else ""
    audiences, algorithms = ", ".join(issuer.audiences), ", ".join(issuer.algorithms)
    return f"believes {issuer.issuer} for {audiences} ({algorithms}, {_keys(issuer)}): {granted}{prefix}{rules}"


def _keys(issuer: Issuer | SecretIssuer) -> str:
    if isinstance(issuer, SecretIssuer):
        return f"secret from {issuer.secret_file or f'env {issuer.secret_env}'}"
    keys = issuer.keys
    if keys.discovery:
        return "keys by discovery"
    address = (keys.jwks_uri or "").partition("?")[0]  # a query can hold a credential
    return f"keys from {address or keys.public_key_file or f'env {keys.public_key_env}'}"


def _api_keys(keys: ApiKeys) -> str:
    places = [keys.header, *(["bearer token"] if keys.bearer else []), *([f"?{keys.query}="] if keys.query else [])]
    kept = [
        *([f"{len(keys.records)} in {keys.directory}"] if keys.directory else []),
        *(["store"] if keys.store else []),
    ]
    granted = "all tiers" if keys.tiers is None else f"tiers {', '.join(keys.tiers)}"
    return f"takes API keys ({', '.join(places)}; records: {', '.join(kept)}): {granted}"


def _certificates(certificates: Certificates) -> Iterator[str]:
    for entry in certificates.identities:
        said = ", ".join(f"{name}={value}" for name, value in entry.attributes.items())
        yield f"knows certificates of {entry.spiffe or entry.dns}: {said or 'no attributes'}"
    for hop in certificates.xfcc_from:
        yield f"believes x-forwarded-client-cert from {hop}"


def _route(route: Route) -> str:
    where = " ".join(
        part
        for part in (
            ", ".join(route.methods or ()),
            f"{', '.join(route.hosts or ())}{route.path or ''}",
            ", ".join(f"{name}={value}" for name, value in route.context.items()),
        )
        if part
    )
    return f"{_demand(route)}: {where or 'every request'}"


def _demand(route: Route) -> str:
    if route.auth == "none":
        return "open to everybody"
    if route.auth == "refuse":
        return "refused"
    demands = [f"one of {', '.join(route.auth)}" if route.auth else "any credential"]
    need = route.require
    if need is not None:
        demands += [f"scope {scope}" for scope in need.scopes or ()]
        demands += [f"a role of {', '.join(need.roles)}"] if need.roles else []
        demands += [f"a tier of {', '.join(need.tiers)}"] if need.tiers else []
        demands += [f"{name} of {', '.join(values)}" for name, values in need.attributes.items()]
    demands += ["rules for its body"] if route.body is not None else []
    return "needs " + " and ".join(demands)
