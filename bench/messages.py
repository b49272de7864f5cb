"""Generated messages, mixed like the samples: returning devices, null locales, one in a hundred of another kind."""

import json
import random
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

OTHER_KIND_EVERY = 100
# 8 of the 99 sample logins are from a user, address and device that logged in before.
RETURNING = 0.08
# With the frequencies of the samples.
_LOCALES = (None,) * 23 + ("ID",) * 15 + ("BR",) * 13 + ("PH",) * 10 + ("RU",) * 9 + ("FR",) * 9 + ("PL", "CN", "KE")
_SEED = 20_000


def bodies(count: int, *, returning: float = RETURNING, seed: int = _SEED) -> Iterator[str]:
    """Yields the same `count` message bodies each time; the last of each hundred is not a login.

    Args:
        count: number of bodies.
        returning: the share of logins whose user, address and device have occurred before.
        seed: another gives other users, addresses and devices.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    people: list[tuple[str, str, str]] = []
    for number in range(1, count + 1):
        if number % OTHER_KIND_EVERY == 0:
            yield json.dumps({"foo": "oops_wrong_msg_type", "bar": str(number)})
            continue
        if people and chance.random() < returning:
            person = chance.choice(people)
        else:
            person = (str(uuid.UUID(int=chance.getrandbits(128), version=4)), _address(chance), _device(chance))
            people.append(person)
        user_id, ip, device_id = person
        yield json.dumps(
            {
                "user_id": user_id,
                "app_version": _version(chance),
                "device_type": chance.choice(("ios", "android")),
                "ip": ip,
                "locale": chance.choice(_LOCALES),
                "device_id": device_id,
            }
        )


def logins(sent: Iterable[str]) -> list[dict[str, Any]]:
    """Returns those of the bodies that are logins."""
    return [one for body in sent if "user_id" in (one := json.loads(body))]


def _address(chance: random.Random) -> str:
    return ".".join(str(chance.randint(1, 254)) for _ in range(4))


def _device(chance: random.Random) -> str:
    return f"{chance.randrange(1_000):03}-{chance.randrange(100):02}-{chance.randrange(10_000):04}"


def _version(chance: random.Random) -> str:
    major, minor = chance.randrange(10), chance.randrange(100)
    return f"{major}.{minor}" if chance.random() < 0.5 else f"{major}.{minor % 10}.{chance.randrange(10)}"
