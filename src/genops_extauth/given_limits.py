"""Limits that a management server gives (xDS), put in force as a reload's are: whole, or not at all."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from genops_extauth import limit_sections, xds
from genops_extauth.gate import Gate
from genops_extauth.generations import Generations
from genops_extauth.limit_compiler import LimitsError
from genops_extauth.ratelimit_resources import declared
from genops_extauth.reload import Reloader
from genops_extauth.telemetry import Telemetry
from genops_extauth.xds_channel import Settings, Tls
from genops_extauth.xds_messages import Resource


class GivenLimits:
    """The limits of ``rate_limits.xds``, while `run` runs; `folder` is that of the configuration file."""

    def __init__(
        self,
        section: limit_sections.Xds,
        folder: Path,
        *,
        reloader: Reloader,
        gate: Gate,
        generations: Generations,
        telemetry: Telemetry,
    ) -> None:
        self._reloader = reloader
        self._gate = gate
        self._generations = generations
        self._telemetry = telemetry
        self._source = xds.XdsSource(_settings(section, folder), self._apply, self._tell)
        self._start_without = section.start_without

    @property
    def ready(self) -> bool:
        """Whether there are limits, or it is right to serve without."""
        return self._start_without or self._source.status.version is not None

    async def first(self) -> None:
        """Wait until there are limits, however long that takes."""
        await self._source.first(float("inf"))

    async def run(self) -> None:
        """Take limits over as they come, until cancelled."""
        await self._source.run()

    async def _apply(self, resources: Sequence[Resource]) -> tuple[str, ...]:
        config = None
        while config is not self._reloader.current:  # A reload may have come in between.
            config = self._reloader.current
            merge = config.rate_limits.merge_domains
            given, problems = await asyncio.to_thread(declared, resources, merge_domains=merge)
            if problems:
                return problems
            try:
                tree = await self._generations.give(config, given)
            except LimitsError as error:
                return (str(error),)
        generation = self._gate.generation
        self._telemetry.limits_compiled(tree, generation.modes)
        self._gate.generation = replace(generation, tree=tree)
        return ()

    def _tell(self, happened: xds.Answered | xds.Lost) -> None:
        if isinstance(happened, xds.Lost):
            self._telemetry.limits_lost(happened.reason, happened.pause)
        else:
            self._telemetry.limits_received(happened.version, happened.problems)


def _settings(section: limit_sections.Xds, folder: Path) -> Settings:
    def at(name: str | None) -> Path | None:
        return None if name is None else folder / name

    tls = Tls(at(section.ca_file), at(section.cert_file), at(section.key_file), section.server_name)
    return Settings(
        str(section.server),
        section.node_id,
        section.node_metadata,
        section.headers,
        tls if section.tls else None,
        section.backoff,
        section.backoff_max,
        section.max_bytes,
    )
