"""FLARE's administrator, run with FLARE's Python: `wait` for the clients, or `run` a job to its end."""

import contextlib
import sys
import time

from nvflare.fuel.flare_api.flare_api import new_secure_session


def main(kit, what, argument, within):
    """Exit 0 where it came so far, 1 where it did not."""
    until = time.monotonic() + float(within)
    session = new_secure_session("admin@bench.example", kit, timeout=30.0)
    try:
        if what == "wait":
            return _clients(session, int(argument), until)
        return _job(session, argument, until)
    finally:
        session.close()


def _clients(session, count, until):
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError, TimeoutError):
            if len(session.get_system_info().client_info) >= count:
                return 0
        time.sleep(0.3)
    print(f"not all of {count} clients came")
    return 1


def _job(session, folder, until):
    job = session.submit_job(folder)
    while time.monotonic() < until:
        status = session.get_job_meta(job)["status"]
        if status.startswith("FINISHED"):
            print(status)
            return 0 if status == "FINISHED:COMPLETED" else 1
        time.sleep(1.0)
    print("the job did not end")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
