"""A governance sidecar for AI gateways: who may pass, on whose account, and how often."""

from importlib.metadata import version

__version__ = version("genops-extauth")
