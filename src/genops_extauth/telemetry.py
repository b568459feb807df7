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

from genops_extauth.gate import Decided, Generation
from genops_extauth.journal import Owed
from genops_extauth.limits import Tree
from genops_extauth.metrics import Metrics
from genops_extauth.model import Allowed, CurrentLimit, Denied, Limited, Outcome, StoreUnavailable
from genops_extauth.quota import Counted, Modes, refusing
from genops_extauth.reasons import Reason
from genops_extauth.sampler import Sampler

_LEVELS = dict.fromkeys(Reason, logging.INFO) | {
    # Not the client's doing: somebody should look.
    Reason.INTERNAL: logging.ERROR,
    Reason.KEYS_UNAVAILABLE: logging.WARNING,
    Reason.STORE_UNAVAILABLE: logging.WARNING,
    Reason.API_KEY_GUESSED: logging.WARNING,
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

    def limited(self, decided: Decided) -> None:
        """Count a rate limit decision, and write a line: of a refusal at info, of a pass at debug."""
        self._metrics.limits.decided(decided)
        self._metrics.limits.answered(decided.seconds)
        told, counted = decided.told, decided.counted
        for match in decided.matches:
            if match is not None and match.defaulted:
                self._metrics.tier_defaulted()
        decisive = _decisive(told, counted)
        tier = decisive.met.rule.limit.name if decisive else None
        self._metrics.limited(tier, decided.seconds, over=told.over)
        if decisive and (told.over or self._debug):
            level, code = (logging.INFO, "over_limit") if told.over else (logging.DEBUG, "ok")
            self._write(self._decisions, level, "rate_limit", code, partial(_limited, code, decided, decisive))

    def store_failed(self, error: StoreUnavailable) -> None:
        """Count a decision that the store could not make, and say so, once a second at most."""
        self._metrics.limits.failed("redis_error")
        # The text begins with the kind of failure.
        self._metrics.store_failed(str(error).partition(":")[0])
        self._write(self._troubles, logging.WARNING, "store_failed", "", lambda: {"detail": str(error)})

    def failed(self, error: Exception) -> None:
        """Count a defect of ours, and write its traceback, once a second at most."""
        self._metrics.failed()
        self._metrics.limits.failed("service_error")
        fields: _Fields = {"error": type(error).__name__, "exc_info": error}
        self._write(self._troubles, logging.ERROR, "internal_error", "", lambda: fields)

    def keys_fetched(
        self, issuer: str, *, step: str = "", error: str = "", detail: str = "", remarks: Sequence[str] = ()
    ) -> None:
        """Count a fetch of an issuer's keys, and say how it ended. Without an `error` it went well.

        `step` is what was asked for, the issuer's configuration or its keys. `remarks` are what somebody should mend.
        """
        self._metrics.keys_fetched(issuer, good=not error)
        if error:
            self._log.warning("keys_not_fetched", issuer=issuer, step=step, error=error, detail=detail)
        else:
            self._log.debug("keys_fetched", issuer=issuer, detail=detail)
        for remark in remarks:
            self._log.warning("issuer_remark", issuer=issuer, detail=remark)

    def revocations_told(self, error: StoreUnavailable | None) -> None:
        """Say that the store does not tell what is revoked, or that it does so again."""
        if error is None:
            self._log.info("revocations_heard")
        else:
            consequence = "what is revoked from now on passes until its time is over; what was known stays refused"
            self._log.error("revocations_not_heard", detail=str(error), consequence=consequence)

    def reloaded(self, *, error: str = "", remarks: Sequence[str] = ()) -> None:
        """Count a reload, and say how it ended. With an `error` the old configuration stays in force.

        `remarks` are about limits that may not mean what they say.
        """
        self._metrics.reloaded(good=not error)
        self._metrics.limits.loaded(good=not error)
        if error:
            self._log.error("config_refused", detail=error, in_force="the former configuration")
        else:
            self._log.info("config_reloaded")
            self._remark(remarks)

    def configured(self, tiers: Iterable[str], issuers: Iterable[str], generation: Generation) -> None:
        """Learn the names that a configuration knows, before it is in force."""
        self._metrics.configured({*tiers, "anonymous"}, issuers)
        self.limits_compiled(generation.tree, generation.modes)

    def limits_compiled(self, tree: Tree, modes: Modes) -> None:
        """Learn the limits that there are, before they are in force."""
        self._metrics.limits.configured(tree.domains, tree.series(), modes)

    def store_said(self, said: str) -> None:
        """Say what operators should know of the store: it moved, it is asked no more, it answers again."""
        self._log.warning("store_changed", detail=said)

    def charges_lost(self, owed: Owed) -> None:
        """Say what was used and never charged, as the process ends while the store is away."""
        self._log.error("charges_lost", buckets=owed.keys, charges=owed.charges, refunds=owed.refunds)

    def limits_loaded(self, remarks: Sequence[str]) -> None:
        """Count the first load of limits, and say what in it may not mean what it says."""
        self._metrics.limits.loaded(good=True)
        self._remark(remarks)

    def limits_received(self, version: str, problems: Sequence[str]) -> None:
        """Count limits that a management server gave; with `problems` those before stay in force."""
        self._metrics.limits.loaded(good=not problems)
        if problems:
            self._log.error("limits_refused", version=version, detail="; ".join(problems), in_force="the limits before")
        else:
            self._log.info("limits_received", version=version)

    def limits_lost(self, reason: str, pause: float) -> None:
        """Say that the management server is away; the limits stay."""
        self._log.warning("limits_not_watched", detail=reason, again_in=round(pause, 1))

    def certificate_renewed(self, trouble: str) -> None:
        """Say that connections are secured by new files, or, with a `trouble`, why they are not."""
        if trouble:
            self._log.error("certificate_refused", detail=trouble, in_force="the former certificate")
        else:
            self._log.info("certificate_renewed")

    def store_ended(self, said: str) -> None:
        """Say that the embedded store ended by itself, and is started again."""
        consequence = "it is started again; every bucket is full, unless embedded:/PATH keeps its data"
        self._log.error("embedded_store_ended", detail=said, consequence=consequence)

    def restart_needed(self, settings: Iterable[str]) -> None:
        """Say which changed settings a reload does not take over."""
        self._log.warning("restart_needed", settings=", ".join(settings))

    def not_watched(self, error: Exception) -> None:
        """Say that changes of the files are not noticed, and what to do after one."""
        self._log.error("config_not_watched", detail=str(error), advice="send SIGHUP after a change")

    def _remark(self, remarks: Sequence[str]) -> None:
        for remark in remarks:
            self._log.warning("limit_remark", detail=remark)

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
        who = {"credential": identity.method, "issuer": identity.issuer, **known}
    return {**_decision("allowed", outcome), **who, **_request(outcome)}


def _decision(verdict: str, outcome: Outcome) -> _Fields:
    route: _Fields = {"route": outcome.route} if outcome.route else {}
    return {"verdict": verdict, "decision_id": outcome.decision_id, "seconds": round(outcome.seconds, 6), **route}


def _request(outcome: Outcome) -> _Fields:
    request = outcome.request
    return {} if request is None else {"method": request.method, "path": request.path, "host": request.host}


def _decisive(told: Limited, counted: Sequence[Counted]) -> Counted | None:
    """The limit that decided: the first that refused, or, where all passed, the first that was met."""
    return next(iter(refusing(counted) if told.over else counted), None)


def _rate(limit: CurrentLimit) -> str:
    unit = limit.unit if limit.periods == 1 else f"{limit.periods} {limit.unit}s"
    return f"{limit.requests_per_unit}/{unit}"


def _limited(code: str, decided: Decided, decisive: Counted) -> _Fields:
    limit, level = decisive.met.rule.limit, decisive.level
    return {
        "code": code,
        "tier": limit.name,
        "limit": _rate(limit),
        "remaining": level.remaining,
        "reset": level.reset,
        "bucket": decisive.met.key.decode("ascii", "backslashreplace"),
        "by": decided.origin.value,
        "seconds": round(decided.seconds, 6),
    }
