"""`python -m bench.timing`: whether the time of a refusal tells how much of an API key was guessed right.

Guesses of several classes are timed one by one, in random order, without a network and without other clients, where a
comparison byte by byte would show. Of four classes nothing is right: how far they are apart is what chance does, and
what guesses happen to have in the caches. Another class differs where Welch's t between it and the nearest of the four
is above 4.5, and it is not between them. Threshold and method are dudect's (Reparaz, Balasch, Verbauwhede 2017), and
so is that the slowest are left out, which are interrupts.
"""

import asyncio
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import click

from bench.api_keys import DIGEST_KEY, DIGITS, SECRET, ApiKey, issued, random_id, random_secret, written
from genops_extauth import apikeys
from genops_extauth.key_guesses import Guesses, Pace
from genops_extauth.key_lifecycle import Record
from genops_extauth.key_lookup import ApiKeys, Lookup
from genops_extauth.key_places import Places
from genops_extauth.model import Peer, Request

RIGHT = (8, 16, 32, 42)  # characters of a secret of 43
RIGHT_BYTES = (8, 16, 24, 31)  # of a digest of 32
AT_ONCE = 1_000  # tries are made before the first is timed: what making one leaves in the caches is not measured
UNKNOWN = 61  # ids, as many as a class has guesses
LEFT_OUT = 0.1
MOST_T = 4.5
NOTHING = ("nothing right", *(f"nothing right, {number}" for number in (2, 3, 4)))
UNTIRING = Pace(burst=1e12, rate=1e12)  # the limit of guesses would answer before anything is compared

Try = Callable[[], object]
Making = Callable[[], Try]
"""Makes one anew, every time: of one and the same object its place in memory would be measured too."""

Classes = Mapping[str, Making]


class Experiment(NamedTuple):
    """Tries by class. The `guesses` must all take as long; for the `others` it is only told how long they take."""

    name: str
    guesses: Classes
    others: Classes


class Times(NamedTuple):
    """How long a class took, in nanoseconds, without the slowest."""

    median: float
    mean: float
    variance: float
    kept: int


@click.command()
@click.option("--samples", default=20_000, show_default=True, help="Of each class.")
def main(samples: int) -> None:
    """Tell how long guesses take, and exit with 1 where that depends on how much of the secret is right."""
    dice = random.Random(5)
    told = [reported(experiment, samples, dice) for experiment in (matching(dice), of_file(dice), of_store(dice))]
    sys.exit(any(told))


def reported(experiment: Experiment, samples: int, dice: random.Random) -> bool:
    """Print a table; whether a guess tells something."""
    times = measured({**experiment.guesses, **experiment.others}, samples, dice)
    equal = [times[name] for name in NOTHING]
    middle = statistics.fmean(each.mean for each in equal)
    print(f"\n{experiment.name}, {samples:,} of each\n\n| class | median ns | mean ns | difference | t |")
    print("|---|---:|---:|---:|---:|")
    for name, of in times.items():
        print(f"| {name} | {of.median:.0f} | {of.mean:.0f} | {of.mean - middle:+.1f} | {apart(of, equal):+.1f} |")
    largest = max(abs(apart(times[name], equal)) for name in experiment.guesses)
    verdict = "differ" if largest > MOST_T else "take the same time, as far as can be seen"
    print(f"\nGuesses {verdict}: |t| is {largest:.1f} at most, and {MOST_T} would be a difference.", flush=True)
    return largest > MOST_T


def measured(classes: Classes, samples: int, dice: random.Random) -> dict[str, Times]:
    """Each class `samples` times, all of them in one random order."""
    order = [name for name in classes for _ in range(samples)]
    dice.shuffle(order)
    found: dict[str, list[int]] = {name: [] for name in classes}
    for start in range(0, len(order), AT_ONCE):
        tries = [(found[name].append, classes[name]()) for name in order[start : start + AT_ONCE]]
        for note, attempt in tries:
            begun = time.perf_counter_ns()
            attempt()
            note(time.perf_counter_ns() - begun)
    return {name: _times(each) for name, each in found.items()}


def apart(one: Times, equal: Sequence[Times]) -> float:
    """Welch's t between one and the nearest of those that are equal; 0 where it is between them."""
    least, most = min(each.mean for each in equal), max(each.mean for each in equal)
    nearest = min(equal, key=lambda each: abs(one.mean - each.mean))
    error = math.sqrt(one.variance / one.kept + nearest.variance / nearest.kept)
    return (one.mean - nearest.mean) / error if error and not least <= one.mean <= most else 0.0


def matching(dice: random.Random) -> Experiment:
    """The comparison alone: digests of which the first bytes are right."""
    size = apikeys.DIGEST_BYTES
    own, *others = (dice.randbytes(size) for _ in range(apikeys.MAX_SECRETS))

    def shown(right: int, known: Sequence[bytes] = (own,)) -> Try:
        wrong = bytes(each ^ 1 for each in own[right : right + 1])
        return partial(apikeys.matches, known, own[:right] + wrong + dice.randbytes(size)[right + len(wrong) :])

    return Experiment(
        "Comparing digests",
        _guesses(lambda right: partial(shown, right), RIGHT_BYTES, "bytes of the digest"),
        {
            "the right one": partial(shown, size),
            "the last of three": partial(shown, size, (*others, own)),
            "none of three": partial(shown, 0, (*others, own)),
            "no such key": partial(shown, 0, ()),
        },
    )


def of_file(dice: random.Random) -> Experiment:
    """Authenticating where the key's record is in a file."""
    key = issued("customer")
    unknown = [random_id(dice) for _ in range(UNKNOWN)]
    return _authenticating("A key whose record is in a file", key, _api_keys(held=[key.record]), unknown, dice)


def of_store(dice: random.Random) -> Experiment:
    """Authenticating where the store was asked a moment ago; that other question takes it a millisecond, and shows."""
    key = issued("customer")
    unknown = [random_id(dice) for _ in range(UNKNOWN)]

    async def find(key_id: str) -> Record | None:
        return key.record if key_id == key.record.id else None

    async def remembered() -> Lookup:
        lookup = Lookup(find, lambda: 0.0)  # time stands still: what is remembered stays so
        for key_id in (key.record.id, *unknown):
            await lookup.asked(key_id, 1.0)
        return lookup

    keys = _api_keys(lookup=asyncio.run(remembered()))
    return _authenticating("A key whose record is in the store", key, keys, unknown, dice)


def _authenticating(name: str, key: ApiKey, keys: ApiKeys, unknown: Sequence[str], dice: random.Random) -> Experiment:
    own, secret = key.record.id, key.text[-SECRET - 6 : -6]

    def guesses(right: int) -> list[str]:
        """Those of one class differ in the last character: the digits of few checksums stay in the caches."""
        first = next(each for each in dice.sample(DIGITS, 2) if each != secret[right])
        body = secret[:right] + first + random_secret(dice)[right + 1 :]
        return [written(own, body[:-1] + last) for last in DIGITS if last != secret[-1]]

    def asking(texts: Sequence[str]) -> Making:
        return lambda: _asking(keys, dice.choice(texts))

    return Experiment(
        name,
        _guesses(lambda right: asking(guesses(right)), RIGHT, "characters of the secret"),
        {
            "the key": asking([key.text]),
            "an id that nobody has": asking([written(each, random_secret(dice)) for each in unknown]),
            "a wrong checksum": asking([each[:-1] + ("1" if each[-1] == "0" else "0") for each in guesses(0)]),
        },
    )


def _guesses(guess: Callable[[int], Making], right: Iterable[int], of: str) -> Classes:
    nothing = {name: guess(0) for name in NOTHING}
    return nothing | {f"{number} {of} right": guess(number) for number in right}


def _api_keys(*, held: Sequence[Record] = (), lookup: Lookup | None = None) -> ApiKeys:
    guesses = Guesses(lambda: 0.0, of_address=UNTIRING, of_all=UNTIRING)
    tiers = frozenset({"premium"})
    return ApiKeys(Places(), DIGEST_KEY.encode(), tiers=tiers, guesses=guesses, held=held, lookup=lookup)


def _asking(keys: ApiKeys, text: str) -> Try:
    headers = {"x-api-key": text.encode()}
    request = Request("POST", "/v1/chat/completions", "api.example.com", headers, peer=Peer("203.0.113.7"))

    def attempt() -> object:
        # Without an event loop, which would be part of the time: nothing here waits for anything.
        try:
            keys.authenticate(request, time.time, lambda: None).send(None)
        except StopIteration as answered:
            return answered.value
        raise RuntimeError("an answer from memory does not wait")

    return attempt


def _times(found: Sequence[int]) -> Times:
    kept = sorted(found)[: max(2, round(len(found) * (1 - LEFT_OUT)))]
    return Times(statistics.median(found), statistics.fmean(kept), statistics.variance(kept), len(kept))


if __name__ == "__main__":
    main()
