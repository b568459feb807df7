"""The environment variables of another program: what becomes of each here, and what an environment says in them."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from genops_extauth.ratelimit_values import text
from genops_extauth.strict_yaml import Plain


class Verdict(enum.StrEnum):
    """What becomes of a variable."""

    SAME = "same"
    """It means here what it means there."""
    REPLACED = "replaced"
    """Something of ours does what it is for."""
    REFUSED = "refused"
    """Set to what cannot be had here, it is an error that says what to do."""
    IGNORED = "ignored"
    """Nothing depends on it."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable. `default` is upstream's, written as there; `read` rewrites a value as our file has it.

    `setting` is the path that it sets, or that replaces it. `note` says what else there is to know; of what is refused,
    what to do. `warning` is told where it is set to another value than `quiet` (by default the default). It counts only
    where one of `needs` is true: without it, the variable means nothing upstream either. `blank`: an empty text is a
    value, and not a mistake.
    """

    name: str
    default: str
    verdict: Verdict
    setting: str = ""
    note: str = ""
    read: Callable[[str], Plain] = text
    warning: str = ""
    quiet: str | None = None
    needs: tuple[str, ...] = ()
    blank: bool = False

    @property
    def usual(self) -> Plain:
        """The value that calls for neither warning nor refusal."""
        value = self.default if self.quiet is None else self.quiet
        return self.read(value) if value else ""


def same(
    name: str,
    default: str,
    setting: str,
    note: str = "",
    read: Callable[[str], Plain] = text,
    *,
    needs: tuple[str, ...] = (),
    blank: bool = False,
) -> Variable:
    """Name one that means here what it means there."""
    return Variable(name, default, Verdict.SAME, setting, note, read, needs=needs, blank=blank or not default)


def ignored(names: str, default: str, note: str, *, warning: str = "") -> tuple[Variable, ...]:
    """Name those, apart from each other by spaces, that nothing depends on."""
    return tuple(Variable(name, default, Verdict.IGNORED, note=note, warning=warning) for name in names.split())


@dataclass(slots=True)
class Reading:
    """What an environment says: each variable's value as our file has it, upstream's default where it is not given.

    `complaints` are (variable, message), of values that are none.
    """

    values: dict[str, Plain] = field(default_factory=dict, repr=False)
    given: set[str] = field(default_factory=set)
    complaints: list[tuple[str, str]] = field(default_factory=list)

    def text(self, name: str) -> str:
        """Tell a variable's value."""
        return str(self.values[name])

    def on(self, *names: str) -> bool:
        """Whether one of them is true."""
        return any(self.values[name] == "true" for name in names)

    def counts(self, variable: Variable) -> bool:
        """Whether a variable is given, and means anything."""
        return variable.name in self.given and (not variable.needs or self.on(*variable.needs))

    def unusual(self, variable: Variable) -> bool:
        """Whether a variable asks for something else than it does by itself."""
        return self.counts(variable) and self.values[variable.name] != variable.usual


def read(variables: Mapping[str, Variable], environ: Mapping[str, str]) -> Reading:
    """Read the variables from an environment."""
    reading = Reading()
    for name, variable in variables.items():
        reading.values[name] = variable.read(variable.default) if variable.default else ""
        # A Secret made from a file often ends in the line break that an editor put there.
        written = environ.get(name, "").rstrip("\r\n")
        if name not in environ or (not written and variable.verdict is not Verdict.SAME):
            continue
        if not written and not variable.blank:
            reading.complaints.append((name, "is set but empty; give it a value, or remove it"))
            continue
        try:
            reading.values[name] = variable.read(written) if written else ""
        except ValueError as error:
            reading.complaints.append((name, str(error)))
        else:
            reading.given.add(name)
    return reading
