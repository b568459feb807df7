"""What an answer costs: `python -m bench` prints the table of docs/benchmarks.md."""
