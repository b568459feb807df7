"""``python -m genops_extauth``: the same as ``genops-extauth``."""

from genops_extauth.cli import main

main()
