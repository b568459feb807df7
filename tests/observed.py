"""Telemetry whose metrics and log a test can read."""

import json
import os
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from genops_extauth.logs import Level, open_log
from genops_extauth.metrics import Metrics
from genops_extauth.telemetry import Telemetry

ISSUER = "https://auth.example.com"


class Sidecar:
    """Telemetry with a registry and a log of its own; `now` is its clock."""

    def __init__(self, path: Path, level: Level) -> None:
        self.now = 100.0
        self.path = path
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, wall=lambda: self.now)
        self.metrics.configured(["free", "premium"], [ISSUER])
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self._sink, log = open_log(self._fd, level=level)
        self.telemetry = Telemetry(self.metrics, log, clock=lambda: self.now)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def lines(self) -> list[dict[str, Any]]:
        """Everything logged; the log is closed by it."""
        if self._fd >= 0:
            self._sink.close()
            os.close(self._fd)
            self._fd = -1
        return [json.loads(line) for line in self.path.read_text().splitlines()]
