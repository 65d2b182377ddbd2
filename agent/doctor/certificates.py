"""What is wrong with the certificates between the node and its broker, or soon will be. Pure."""

from __future__ import annotations

import shlex
import ssl
from collections.abc import Iterator

from agent.config import Mqtt
from agent.doctor.clock import TURN_ON, date
from agent.doctor.finding import Finding, problem, warning
from agent.doctor.handshake import Attempt, Certificate
from agent.doctor.subject import Subject
from agent.hours import PLAUSIBLE_TIME
from agent.setup.service import program

AREA = "broker"
SOON_S = 14 * 86400.0
DAY_S = 86400.0
# Of OpenSSL's verification (openssl-verification-options(1), "DIAGNOSTICS").
NOT_YET_VALID, EXPIRED = 9, 10
UNTRUSTED = (2, 7, 18, 19, 20, 21)
OTHER_NAME = (62, 64)


def refused(
    tried: Attempt, now: float, mqtt: Mqtt, subject: Subject, error: ssl.SSLCertVerificationError
) -> Finding:
    """Why the broker's certificate was refused."""
    where, peer = address(mqtt), tried.peer
    ca = shlex.quote(str(mqtt.ca))
    install = f"sudo install -m 644 ca.pem {ca} && {subject.restart}  # ca.pem: of the operator"
    code = error.verify_code
    if code == NOT_YET_VALID:
        since = f"valid from {date(peer.not_before)}; " if peer and peer.not_before > now else ""
        return problem(
            AREA, f"the certificate of {where}, or of its authority, is not yet valid",
            f"{since}this machine's clock says {date(now)}: most likely it is wrong", f"{TURN_ON} && {subject.restart}",
        )  # fmt: skip
    if code == EXPIRED:
        if peer is not None and peer.not_after < now:
            return problem(
                AREA, f"the certificate of {where} expired on {date(peer.not_after)}",
                f"this machine's clock says {date(now)}",
                "on the broker: put a new certificate in place, then sudo systemctl reload mosquitto",
            )  # fmt: skip
        return problem(AREA, f"the authority of {where} has expired", f"mqtt.ca is {ca}", install)
    if code in OTHER_NAME:
        names = ", ".join(peer.names) if peer and peer.names else peer.subject if peer else "another name"
        first = peer.names[0] if peer and peer.names else "the name in its certificate"
        return problem(
            AREA, f"the certificate of {where} is for {names}, not for {mqtt.host}",
            "who answers may be another machine than the broker; or mqtt.host is not its name",
            subject.edit("mqtt", "host", f'host = "{first}"'),
        )  # fmt: skip
    if code in UNTRUSTED:
        ours = ", ".join(authority.subject for authority in tried.authority) or "nobody"
        theirs = f"issued by {peer.issuer}" if peer else "of another authority"
        why = f"mqtt.ca trusts {ours}"
        if peer is not None and peer.issuer == ours:
            why += ": the same name, another key; the authority was made anew, or somebody poses as it"
        return problem(AREA, f"the certificate of {where} is {theirs}, which is not trusted", why, install)
    return problem(
        AREA, f"the certificate of {where} was refused: {error.verify_message}", "OpenSSL does not accept it",
        f"openssl s_client -connect {where} -CAfile {ca}",
    )  # fmt: skip


def dates(tried: Attempt, now: float, mqtt: Mqtt, subject: Subject) -> Iterator[Finding]:
    """Of certificates that are no longer valid, or not for long. While the clock is wrong they say nothing."""
    if now < PLAUSIBLE_TIME:
        return
    on_broker = "on the broker: put a new certificate in place, then sudo systemctl reload mosquitto"
    theirs = f"the certificate of {address(mqtt)}"
    found: list[tuple[str, Certificate, str]] = []
    if tried.own is not None:
        found.append(
            (
                f"mqtt.cert {mqtt.cert}",
                tried.own,
                enrol(subject, tried.own.not_before <= now < tried.own.not_after),
            )
        )
    was_refused = isinstance(tried.error, ssl.SSLCertVerificationError)
    if not was_refused:  # else its cause is told already
        found += [(theirs, tried.peer, on_broker)] if tried.peer else []
        new_ca = f"sudo install -m 644 ca.pem {mqtt.ca} && {subject.restart}  # ca.pem: of the operator"
        found += [(f"mqtt.ca {mqtt.ca}", _authority(tried), new_ca)] if tried.authority else []
    for what, certificate, mend in found:
        left_s = certificate.not_after - now
        if left_s < 0:
            why = f"this machine's clock says {date(now)}; a broker refuses it"
            yield problem(AREA, f"{what} expired on {date(certificate.not_after)}", why, mend)
        elif certificate.not_before > now:
            why = f"valid from {date(certificate.not_before)}, and the clock says {date(now)}"
            yield problem(AREA, f"{what} is not yet valid", why, f"{TURN_ON} && {subject.restart}")
        elif left_s < min(SOON_S, (certificate.not_after - certificate.not_before) / 4):
            why = "the node loses its broker then"
            yield warning(AREA, f"{what} expires in {left_s / DAY_S:.1f} days", why, mend)


def _authority(tried: Attempt) -> Certificate:
    """Of those in mqtt.ca the one that counts: the issuer's, the longest. A file may hold an old one beside its
    successor, or the authorities of the whole world."""
    issuers = [each for each in tried.authority if tried.peer and each.subject == tried.peer.issuer]
    return max(issuers or tried.authority, key=lambda each: each.not_after)


def enrol(subject: Subject, connects: bool = False) -> str:
    """The command that gets this node a certificate; ``connects``: the one that it has still opens the broker."""
    config = f" --config {shlex.quote(str(subject.reading.file))}" if subject.reading.file else ""
    where = "" if connects else " --enrol HOST:PORT --username enrol --password-file FILE"
    of_operator = "" if connects else "; HOST:PORT and login for enrolment: of the operator"
    return (
        f"{subject.sudo(str(program()))} init{config} --renew{where} && {subject.restart}"
        f"  # asks the operator for a new one{of_operator}"
    )


def address(mqtt: Mqtt) -> str:
    return f"{mqtt.host}:{mqtt.port}"
