"""What would stop a researcher, auditor or viewer: profile, key, and the line to the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator

from deploy.doctor.line import check_line
from deploy.session.profile import Profile
from messages.ground.errors import KonsilError
from messages.trust.settings import load_trust
from site_agent.desk.checks import Check, Grade, failed_check


def check_person(profile: Profile) -> Iterator[Check]:
    """Each finding as it is made."""
    yield Check("profile", Grade.OK, f"{profile.name}, {profile.role} of {profile.consortium}")
    if profile.trust is None:
        yield Check("trust", Grade.WARN, "events are neither signed nor checked: the profile has no [trust]")
    else:
        try:
            register = load_trust(profile.trust, profile.consortium, profile.name).register
        except KonsilError as error:
            yield failed_check("trust", error)
        else:
            role = register.role_of(profile.name)
            if role != profile.role:
                what = f"the register has {profile.name} as {role or 'nobody'}, the profile says {profile.role}"
                yield Check("trust", Grade.FAIL, what, "Correct role in the profile, or ask the operator", 2)
            elif not register.keys_of(profile.name, time.time()):
                what = "no key of ours is good any more"
                yield Check("trust", Grade.FAIL, what, "`konsil provision renew`, or ask the operator", 2)
            else:
                yield Check("trust", Grade.OK, f"register {register.serial} has our key")
    yield from check_line(profile.broker_address(), profile.name, profile.consortium, ())
