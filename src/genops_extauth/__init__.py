"""A governance sidecar for AI gateways: who may pass, on whose account, and how often."""

import os
from importlib.metadata import version

# Left to itself, gRPC's core writes a line to standard error for each failed handshake: whoever can connect could fill
# it, past our log and its bounds. It reads this once, when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

__version__ = version("genops-extauth")
