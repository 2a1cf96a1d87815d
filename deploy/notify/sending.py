"""A notice on its way: by mail (smtplib), or to a program of this machine."""

from __future__ import annotations

import os
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from email.message import EmailMessage

from deploy.notify.notices import Notice
from messages.ground.errors import KonsilError, Unreachable, WorkFailed
from messages.ground.operating.notify import MailSettings, NotifySettings
from messages.ground.settings import read_secret

WITHIN = 60.0
"""Seconds for the mail server's answer, and for the program."""


def send_notice(settings: NotifySettings, notice: Notice) -> None:
    """Give one word by every way that is set up.

    Raises:
        KonsilError: a way failed; the others were tried all the same.
    """
    failed: KonsilError | None = None
    ways: list[Callable[[], None]] = []
    if (mail := settings.mail) is not None:
        ways.append(lambda: _send_mail(mail, notice))
    if settings.command:
        ways.append(lambda: _run_command(settings.command, notice))
    for send in ways:
        try:
            send()
        except KonsilError as error:
            failed = error
    if failed is not None:
        raise failed


def _send_mail(mail: MailSettings, notice: Notice) -> None:
    message = EmailMessage()
    message["From"], message["To"] = mail.sender, ", ".join(mail.to)
    message["Subject"] = f"Konsil: {notice.subject}"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(notice.text + "\n")
    where = f"{mail.host}:{mail.port}"
    context = ssl.create_default_context()
    try:
        with _open_server(mail, context) as server:
            if mail.tls == "starttls":
                server.starttls(context=context)
            if mail.user:
                server.login(mail.user, read_secret(mail.password.get_secret_value(), "notify.mail.password"))
            server.send_message(message)
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode(errors="replace")
        raise WorkFailed(f"the mail server refuses ({error.smtp_code} {said})", where=where, advice=_CHECK) from None
    except smtplib.SMTPException as error:
        raise WorkFailed(f"the mail cannot be sent ({error})", where=where, advice=_CHECK) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Unreachable(f"the mail server is not reachable ({why})", where=where, advice=_CHECK) from None


def _open_server(mail: MailSettings, context: ssl.SSLContext) -> smtplib.SMTP:
    if mail.tls == "tls":
        return smtplib.SMTP_SSL(mail.host, mail.port, timeout=WITHIN, context=context)
    return smtplib.SMTP(mail.host, mail.port, timeout=WITHIN)


_CHECK = "Check [notify.mail], then: notify --test"


def _run_command(command: tuple[str, ...], notice: Notice) -> None:
    text = f"{notice.subject}\n{notice.text}\n"
    environment = {**os.environ, "KONSIL_NOTICE": notice.key}
    advice = "Check notify.command, then: notify --test"
    try:
        done = subprocess.run(
            command, input=text.encode(), env=environment, capture_output=True, timeout=WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        raise WorkFailed(f"the program took longer than {WITHIN:.0f} s", where=command[0], advice=advice) from None
    except OSError as error:
        raise WorkFailed(f"cannot be run ({error.strerror})", where=command[0], advice=advice) from None
    if done.returncode:
        raise WorkFailed(f"the program ended with status {done.returncode}", where=command[0], advice=advice)
