"""What happened -> metrics, and one log line.

What a client sent stands only in the values of a line, which `logs.clean` redacts and escapes; headers are never given
to the log at all. A refusal costs as much as its line (20 us; counting costs 1), so a `Sampler` bounds the lines: a
flood must not burn the sidecar.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from structlog.typing import FilteringBoundLogger

from genops_extauth.limits import Match
from genops_extauth.metrics import Metrics
from genops_extauth.model import Allowed, Denied, DescriptorStatus, Limited, Outcome, Reason, StoreUnavailable
from genops_extauth.sampler import Sampler

_LEVELS = dict.fromkeys(Reason, logging.INFO) | {
    # Not the client's doing: somebody should look.
    Reason.INTERNAL: logging.ERROR,
    Reason.KEYS_UNAVAILABLE: logging.WARNING,
}

_Fields = dict[str, object]


class Telemetry:
    """A `gate.Observer`, which is also told of fetches of keys and of reloads. `clock` is in seconds, of any origin."""

    def __init__(
        self, metrics: Metrics, log: FilteringBoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._log = log
        self._debug = log.is_enabled_for(logging.DEBUG)
        self._decisions = Sampler(clock)
        self._troubles = Sampler(clock, first=1, thereafter=0)

    def checked(self, outcome: Outcome) -> None:
        """Count a Check, and write a line: of a refusal at info, of a pass at debug."""
        verdict = outcome.verdict
        if isinstance(verdict, Denied):
            self._metrics.denied(verdict.reason, outcome.seconds)
            fields = partial(_denied, outcome, verdict)
            self._write(self._decisions, _LEVELS[verdict.reason], "check", verdict.reason.value, fields)
            return
        self._metrics.allowed(outcome.seconds)
        if self._debug:
            self._write(self._decisions, logging.DEBUG, "check", "allowed", partial(_allowed, outcome, verdict))

    def limited(self, limited: Limited, matches: Sequence[Match | None], seconds: float) -> None:
        """Count a rate limit decision, and write a line: of a refusal at info, of a pass at debug."""
        for match in matches:
            if match is not None and match.defaulted:
                self._metrics.tier_defaulted()
        decided = _decisive(limited, matches)
        self._metrics.limited(decided[0].rule.limit.name if decided else None, seconds, over=limited.over)
        if decided and (limited.over or self._debug):
            level, code = (logging.INFO, "over_limit") if limited.over else (logging.DEBUG, "ok")
            self._write(self._decisions, level, "rate_limit", code, partial(_limited, code, *decided, seconds))

    def store_failed(self, error: StoreUnavailable) -> None:
        """Count a decision that the store could not make, and say so, once a second at most."""
        # The text begins with the kind of failure.
        self._metrics.store_failed(str(error).partition(":")[0])
        self._write(self._troubles, logging.WARNING, "store_failed", "", lambda: {"detail": str(error)})

    def failed(self, error: Exception) -> None:
        """Count a defect of ours, and write its traceback, once a second at most."""
        self._metrics.failed()
        fields: _Fields = {"error": type(error).__name__, "exc_info": error}
        self._write(self._troubles, logging.ERROR, "internal_error", "", lambda: fields)

    def keys_fetched(self, issuer: str, *, error: str = "", detail: str = "") -> None:
        """Count a fetch of an issuer's keys, and say how it ended. Without an `error` it went well."""
        self._metrics.keys_fetched(issuer, good=not error)
        if error:
            self._log.warning("keys_not_fetched", issuer=issuer, error=error, detail=detail)
        else:
            self._log.debug("keys_fetched", issuer=issuer, detail=detail)

    def reloaded(self, *, error: str = "") -> None:
        """Count a reload, and say how it ended. With an `error` the old configuration stays in force."""
        self._metrics.reloaded(good=not error)
        if error:
            self._log.error("config_refused", detail=error, in_force="the former configuration")
        else:
            self._log.info("config_reloaded")

    def configured(self, tiers: Iterable[str], issuers: Iterable[str]) -> None:
        """Learn the names that a configuration knows, before it is in force."""
        self._metrics.configured({*tiers, "anonymous"}, issuers)

    def store_ended(self, said: str) -> None:
        """Say that the embedded store ended by itself, and is started again, empty: every bucket is full."""
        self._log.error("embedded_store_ended", detail=said, consequence="it is started again, with every bucket full")

    def restart_needed(self, settings: Iterable[str]) -> None:
        """Say which changed settings a reload does not take over."""
        self._log.warning("restart_needed", settings=", ".join(settings))

    def not_watched(self, error: Exception) -> None:
        """Say that changes of the files are not noticed, and what to do after one."""
        self._log.error("config_not_watched", detail=str(error), advice="send SIGHUP after a change")

    def _write(self, sampler: Sampler, level: int, event: str, kind: str, fields: Callable[[], _Fields]) -> None:
        if not self._log.is_enabled_for(level):
            return
        left_out = sampler.admit((event, kind))
        if left_out is None:
            self._metrics.line_left_out()
            return
        suppressed: _Fields = {"suppressed": left_out} if left_out else {}
        self._log.log(level, event, **fields(), **suppressed)


def _denied(outcome: Outcome, denied: Denied) -> _Fields:
    detail: _Fields = {"detail": denied.detail} if denied.detail else {}
    return {**_decision("denied", outcome), "reason": denied.reason.value, **detail, **_request(outcome)}


def _allowed(outcome: Outcome, allowed: Allowed) -> _Fields:
    identity = allowed.grant.identity
    who: _Fields = {}
    if identity is not None:
        known = {name: identity.attributes[name] for name in ("customer_id", "team") if name in identity.attributes}
        who = {"issuer": identity.issuer, **known}
    return {**_decision("allowed", outcome), **who, **_request(outcome)}


def _decision(verdict: str, outcome: Outcome) -> _Fields:
    return {"verdict": verdict, "decision_id": outcome.decision_id, "seconds": round(outcome.seconds, 6)}


def _request(outcome: Outcome) -> _Fields:
    request = outcome.request
    return {} if request is None else {"method": request.method, "path": request.path, "host": request.host}


def _decisive(limited: Limited, matches: Sequence[Match | None]) -> tuple[Match, DescriptorStatus] | None:
    """The descriptor that decided: the first that is over, or, where all pass, the first that met a limit."""
    for match, status in zip(matches, limited.statuses, strict=True):
        if match is not None and status.over == limited.over:
            return match, status
    return None


def _limited(code: str, match: Match, status: DescriptorStatus, seconds: float) -> _Fields:
    limit = match.rule.limit
    return {
        "code": code,
        "tier": limit.name,
        "limit": f"{limit.requests_per_unit}/{limit.unit}",
        "remaining": status.remaining,
        "reset": status.reset,
        "bucket": match.key.decode("ascii", "backslashreplace"),
        "seconds": round(seconds, 6),
    }
