"""The Dockerfile builds from the repository alone, and what it builds runs without root, a shell or an init."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifests import DEPLOY, build, one

REPOSITORY = Path(__file__).parents[1]
PREFIX = "/opt/genops"

Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """Read the Dockerfile: for each FROM its instructions, itself first."""
    text = re.sub(r"^\s*#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest.strip()))
    return found


BUILD, IMAGE = stages()


def of(stage: list[Instruction], name: str) -> list[str]:
    return [rest for instruction, rest in stage if instruction == name]


def context() -> Iterator[Path]:
    """List what a clean checkout would send to the builder: what git carries and .dockerignore lets through."""
    carried = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(carried, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "what follows reads only exceptions to `*`"
    kept = [line[1:] for line in lines if line[0] == "!"]
    for name in filter(None, names.split("\0")):
        if any(name == top or name.startswith(f"{top}/") for top in kept) and (REPOSITORY / name).is_file():
            yield Path(name)


def copied(folder: Path) -> None:
    """Do the COPY instructions of the build stage."""
    files = list(context())
    for instruction in of(BUILD, "COPY"):
        *sources, target = instruction.split()
        for source in sources:
            found = [file for file in files if file == Path(source) or Path(source) in file.parents]
            assert found, f"COPY {source}: the repository has no such file, or .dockerignore keeps it out"
            for file in found:
                place = folder / target / (file.relative_to(source) if len(sources) == 1 else file)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / file, place)


@pytest.mark.timeout(300)
def test_the_build_steps_make_a_program_that_runs(tmp_path: Path) -> None:
    """In an empty environment the RUN steps install the program from the copied files alone, with native gRPC."""
    source, prefix = tmp_path / "src", tmp_path / "prefix"
    source.mkdir()
    copied(source)
    # The image's python: one of its own, with pip, that knows nothing of the environment which the tests run in.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "python"], check=True)
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
    environment["PATH"] = f"{tmp_path / 'python' / 'bin'}:/usr/bin:/bin"
    for step in of(BUILD, "RUN"):
        assert PREFIX in step
        command = step.replace(PREFIX, str(prefix))
        done = subprocess.run(
            ["sh", "-euc", command], cwd=source, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    shutil.rmtree(source)  # An editable installation would die with it.
    said = subprocess.run(
        [prefix / "bin" / "genops-extauth", "--version"], env={}, capture_output=True, text=True, check=True
    )
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert version[1] in said.stdout
    subprocess.run([prefix / "bin" / "python", "-c", "import pygrpc_native"], env={}, check=True)
    assert not (prefix / "bin" / "pip").exists()
    _stands_in_for_the_reference(prefix / "bin" / "ratelimit", tmp_path)


def _stands_in_for_the_reference(command: Path, place: Path) -> None:
    """What becomes /bin/ratelimit serves as envoyproxy/ratelimit does, wherever it lies, as any user."""
    copied = shutil.copy(command, place / "elsewhere")
    (place / "config").mkdir()
    (place / "config" / "limits.yaml").write_text("domain: shop\ndescriptors: [{key: path, kee: oops}]\n")
    ended = subprocess.run([copied], env={"RUNTIME_ROOT": str(place)}, capture_output=True, text=True, check=False)
    assert (ended.returncode, "limits.yaml:2" in ended.stderr) == (2, True), ended.stderr
    assert command.stat().st_mode & 0o777 == 0o755


def test_both_stages_have_the_same_python() -> None:
    """The environment runs on the python that made it: both stages start from one image of Debian."""
    (build_from,), (image_from,) = of(BUILD, "FROM"), of(IMAGE, "FROM")
    assert build_from.split()[0] == image_from == "python:3.11-slim"
    built = f"--from={build_from.split()[-1]}"
    assert of(IMAGE, "COPY") == [f"{built} {PREFIX} {PREFIX}", f"{built} {PREFIX}/bin/ratelimit /usr/bin/ratelimit"]
    assert of(IMAGE, "RUN") == []


def test_nothing_runs_through_a_shell() -> None:
    """Entry point, command and health check are in exec form: PID 1 is the program, and gets SIGTERM."""
    (entry,), (command,), (check,) = of(IMAGE, "ENTRYPOINT"), of(IMAGE, "CMD"), of(IMAGE, "HEALTHCHECK")
    assert json.loads(entry) == ["genops-extauth"]
    assert json.loads(command)[0] == "serve"
    assert json.loads(check.partition("CMD ")[2]) == ["genops-extauth", "health", "--http", "127.0.0.1:8080"]
    assert of(IMAGE, "STOPSIGNAL") == ["SIGTERM"]


def test_the_image_is_what_the_deployment_runs() -> None:
    """The Deployment starts the image's program as the image's user, with ports that the image exposes."""
    pod = one(build(DEPLOY / "base"), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user, user_group = of(IMAGE, "USER")[0].split(":")
    assert (int(user), int(user_group)) == (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"])
    assert [container["args"]] == [json.loads(command) for command in of(IMAGE, "CMD")]
    assert of(IMAGE, "EXPOSE") == [" ".join(str(port["containerPort"]) for port in container["ports"])]
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert container["image"] == f"genops-extauth:{version[1]}"
