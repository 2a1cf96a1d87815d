"""Verifies an exported event log of Konsil, or a proof of one entry, on a machine that has nothing of Konsil.

    python verify.py FILE [--operator HEX] [--head FILE] [--json] [--jobs N]

It needs Python 3.11 and `cryptography`. Exit status: 0 it holds; 1 it was altered, and the first entry concerned is
named; 2 it cannot be read. Checked are: each entry's hash and links; the Merkle tree (RFC 9162) over the whole journal;
signed heads (C2SP tlog-checkpoint) and cosignatures (tlog-cosignature); signatures of events; times; that no register
or term goes back. Told are terms that do not follow, `views`: sites that saw what the log lacks, or say so, `behind`:
sites that witness no more, since which head. --operator holds the log's register against a key that you know."""

import argparse
import base64
import json
import re
import struct
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from hashlib import sha256
from multiprocessing import cpu_count, freeze_support, get_context
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZERO, MAX_RECORD = bytes(32), 65 * 2**20
CANNOT = (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error)
PRIME, ORDER_8 = 2**255 - 19, 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
SMALL_ORDERS = {0, 1, PRIME - 1, ORDER_8, PRIME - ORDER_8}
SKEW, LATE, NEVER = 600, 30 * 86400, 2**53  # seconds between clocks, and that an event may lie after its key's end
EVENT, NO_REGISTER = b"konsil event 1\n", {"serial": 0, "signatures": "accepted", "keys": [], "held": {}}
Broken, Unreadable = type("Broken", (Exception,), {}), type("Unreadable", (Exception,), {})


def need(holds, what, error=ValueError):
    if not holds:
        raise error(what)


def unpack(data, until=None):
    """A value of msgpack (https://msgpack.org) in its shortest form, else CANNOT. Of a map: its keys until one."""
    value, end = read_value(data, 0, 16, until)
    need(end == len(data) or (end < len(data) and until is not None), "cut off, or bytes behind the value")
    return value


def read_value(data, at, depth, until=None):
    head, at = data[at], at + 1
    need(depth >= 0, "too deep")
    if head < 0x80 or head >= 0xE0:
        return (head if head < 0x80 else head - 256), at
    if 0xA0 <= head < 0xC0:
        return str(data[at : at + (head & 31)], "utf-8"), at + (head & 31)
    if head in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[head], at
    if head == 0xCB:
        return struct.unpack(">d", data[at : at + 8])[0], at + 8
    if 0xCC <= head <= 0xD3:
        width, signed = 1 << (head - 0xCC) % 4, head >= 0xD0
        value, half = int.from_bytes(data[at : at + width], "big", signed=signed), 1 << width * 4
        long = value >= (-32 if width == 1 else -half // 2) if signed else value < (128 if width == 1 else half)
        need(not long, "not the shortest way")
        return value, at + width
    for first, least in ((0xC4, 0), (0xD9, 32)):
        if first <= head < first + 3:
            size, at = read_size(data, at, 1 << (head - first), least)
            return (str(data[at : at + size], "utf-8") if least else data[at : at + size]), at + size
    need(head < 0xA0 or head >= 0xDC, "a type that is not used")
    size, at = read_size(data, at, 2 << (head & 1), 16) if head >= 0xDC else (head & 15, at)
    is_map, found, items = head < 0x90 or head >= 0xDE, {}, []
    for _place in range(size):
        item, at = read_value(data, at, depth - 1)
        if is_map:
            need(type(item) is str and item not in found, "a key that is no text, or comes twice")
            found[item], at = read_value(data, at, depth - 1)
            if item == until:
                break
        items.append(item)
    return (found if is_map else items), at


def read_size(data, at, width, least):
    size = int.from_bytes(data[at : at + width], "big")
    need(size >= (least if width == 1 or (width == 2 and least == 16) else 1 << 4 * width), "not the shortest way")
    return size, at + width


class AuditedEntry:  # its bytes end with its hash, which is over the same list without it
    def __init__(self, data):
        fields = unpack(data)
        types = [type(one) for one in fields] == [int] * 3 + [str, float, str] + [bytes] * 4
        need(types and fields[0] == 1 and len(fields[9]) == 32, "not an entry")
        _form, self.number, self.index, self.experiment, self.time, self.type = fields[:6]
        self.body, self.previous, _before, self.hash = fields[6:]
        self.leaf, self.holds = sha256(b"\x00" + data).digest(), sha256(b"\x99" + data[1:-34]).digest() == self.hash
        self.name = f"entry {self.index} of {self.experiment} (journal number {self.number})"


class Tree:  # the right edge of a tree of RFC 9162, section 2.1: (level, hash) of its complete subtrees
    def __init__(self):
        self.size, self.nodes = 0, []

    def push(self, node, level=0):
        self.size += 1 << level
        while self.nodes and self.nodes[-1][0] == level:
            node, level = sha256(b"\x01" + self.nodes.pop()[1] + node).digest(), level + 1
        self.nodes.append((level, node))

    def cross(self, end, hashes):  # go on to before leaf `end`, by the largest complete subtrees between; or False
        levels, start = [], self.size
        while start < end:
            levels.append(min((end - start).bit_length(), (start & -start).bit_length() or 64) - 1)
            start += 1 << levels[-1]
        fits = end >= self.size and len(hashes) == 32 * len(levels)
        for place, level in enumerate(levels if fits else ()):
            self.push(hashes[32 * place : 32 * place + 32], level)
        return fits

    def root(self):
        node = self.nodes[-1][1] if self.nodes else sha256(b"").digest()
        for _level, left in self.nodes[-2::-1]:
            node = sha256(b"\x01" + left + node).digest()
        return node


def find_root(node, index, size, path):  # that an audit path leads to from a leaf (RFC 9162, 2.1.1 and 2.1.3.1)
    if size <= 1 or not path:
        return node if size == 1 and index == 0 and not path else b""
    left = 1 << ((size - 1).bit_length() - 1)
    if index < left:
        return sha256(b"\x01" + find_root(node, index, left, path[:-1]) + path[-1]).digest()
    return sha256(b"\x01" + path[-1] + find_root(node, index - left, size - left, path[:-1])).digest()


def is_signed(key, message, signature):
    """Ed25519 (RFC 8032), strictly: no key of small order, no key or signature written in a second way."""
    y = int.from_bytes(key, "little") & (2**255 - 1)
    try:
        need((len(key), len(signature)) == (32, 64) and y < PRIME and y not in SMALL_ORDERS, "not strict")
        return Ed25519PublicKey.from_public_bytes(key).verify(signature, message) is None
    except (InvalidSignature, ValueError):
        return False


def find_unsigned(claims):  # of (words, keys, message, signature) the words of those that none of the keys signed
    return [words for words, keys, *signed in claims if not any(is_signed(key, *signed) for key in keys)]


def read_note(data):  # (text, [(name, key id, signature)]) of a C2SP signed-note; ValueError where it is none
    whole = data.decode("utf-8")
    text, gap, marks = whole.rpartition("\n\n")
    lines = marks.split("\n")
    need(gap and not lines.pop() and not re.search("[\x00-\x09\x0b-\x1f]", whole) and 1 <= len(lines) <= 64, "no note")
    signatures = []
    for line in lines:
        found = re.fullmatch(r"— ([^\s+]{1,128}) ([A-Za-z0-9+/=]{1,512})", line)
        content = base64.b64decode(found[2], validate=True) if found else b""
        need(len(content) > 4 and base64.b64encode(content).decode() == found[2], "not a signature")
        signatures.append((found[1], content[:4], content[4:]))
    return text + "\n", signatures


def check_mark(text, mark, keys, timed=False):  # when a witness cosigned; of a plain signature 0; None: no such key
    time = int.from_bytes(mark[2][:8], "big") if timed else 0
    message, start = (f"cosignature/v1\ntime {time}\n{text}", b"\n\x04") if timed else (text, b"\n\x01")
    known = [key for key in keys if sha256(mark[0].encode() + start + key).digest()[:4] == mark[1]]
    return time if any(is_signed(key, message.encode(), mark[2][8 * timed :]) for key in known) else None


def read_head(text, origin):  # (size, root) of a checkpoint; ValueError where it is none of this log
    _origin, number, given, _end = text.split("\n")
    size, root = int(number), base64.b64decode(given, validate=True)
    need(text == f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n", "of another log, or written in another way")
    need(len(root) == 32 and 0 <= size < 2**53, "no head")
    return size, root


def read_register(data, operator, origin, name, old):
    """The operator's register: a note, with JSON behind its first line; nothing in it goes back behind an old one."""
    try:
        text, marks = read_note(data)
        new = json.loads(text.partition("\n")[2])
        need(text.startswith("konsil register 1\n"), "it is no register")
        need(new["consortium"] == origin.removeprefix("konsil/"), "it is of another consortium")
        signed = any(one[0] == "operator" and check_mark(text, one, [operator]) == 0 for one in marks)
        need(signed or not operator, "the operator did not sign it")
        for one in new["keys"]:
            one |= {"key": bytes.fromhex(one["key"]), "revoked": NEVER if one["revoked"] is None else one["revoked"]}
        held = new["held"] = {(k["key"], k["name"], k["role"], k["since"]): k["revoked"] for k in new["keys"]}
        back = new["serial"] <= old["serial"] or old["signatures"] == "required" != new["signatures"]
        back |= any(held.get(one, NEVER + 1) > end for one, end in old["held"].items())
        need(new == old or not back, "it does not follow from the one before")
    except CANNOT as error:
        raise Broken(f"{name}: its register cannot be used: {error}") from None
    return new


def list_keys(register, name, at, later=False):  # the keys that speak for a party at a moment, or from a later one on
    mine = [one for one in register["keys"] if one["name"] == name and (later or one["since"] <= at)]
    return [one["key"] for one in mine if max(at, one["since"]) < min(one["until"], one["revoked"])]


def check_marks(text, marks, origin, keys_of):  # the coordinator's under a head; witness → its time, None: it is none
    own = sum(mark[0] == origin and check_mark(text, mark, keys_of("coordinator")) == 0 for mark in marks)
    return own, {one[0]: check_mark(text, one, keys_of(one[0]), True) for one in marks if one[0] != origin}


class Log:  # one pass over an exported log
    def __init__(self, path, operator, kept):
        self.path, self.operator, self.kept, self.register, self.since = path, operator, kept, NO_REGISTER, []
        self.roster, self.keys_of = set(), lambda name: list_keys(self.register, name, self.time)
        self.last, self.last_hash, self.heads, self.tree, self.experiment, self.origin = {}, ZERO, [], Tree(), "", ""
        self.time = self.behind = self.number = self.signed = self.unsigned = self.uncovered = self.size = 0
        self.claims, self.asked, self.term, self.jumps, self.shown, self.views = [], deque(), -1, [], {}, []

    def verify(self, jobs):  # events' signatures in processes of their own; what is first in the file is told
        self.jobs = jobs or (min(cpu_count(), 16) if Path(self.path).stat().st_size > 2**23 else 1)
        spread = ThreadPoolExecutor(1) if self.jobs == 1 else ProcessPoolExecutor(self.jobs, get_context("spawn"))
        with spread as self.pool:
            try:
                self.read()
            finally:
                self.ask(0)
        if self.kept:
            self.compare_kept(*self.kept)

    def ask(self, most):  # hand the claims out, and wait until at most so many batches are under way
        self.asked.append(self.pool.submit(find_unsigned, self.claims))
        self.claims, self.size = [], 0
        while len(self.asked) > most:
            for words in self.asked.popleft().result():
                self.asked.clear()
                raise Broken(words)

    def read(self):
        with open(self.path, "rb") as file:
            self.form = {b"KONSIL-LOG-1\n": 1, b"KONSIL-LOG-2\n": 2}.get(file.read(13), 0)
            need(self.form, f"{self.path}: is no exported log", Unreadable)
            place = 0
            try:
                while (head := file.read(4)) != bytes(4):
                    place, length = place + 1, int.from_bytes(head, "big")
                    where = f"{self.path}, record {place}: cut off, or changed: it cannot be read"
                    data = file.read(length) if len(head) == 4 and length <= MAX_RECORD else b""
                    need(data and len(data) == length, "cut off")
                    self.take_record(data, place)
                where = f"{self.path}, after record {place}: what closes it was changed, or records were taken out"
                counted, newest = sum(one.index for one in self.last.values()), self.heads[-1][0] if self.heads else b""
                need(unpack(file.read(65)) == [self.form, counted, self.last_hash, newest], "it closes otherwise")
                need(counted and (self.form == 1 or newest), "it is empty, or has no head")
            except CANNOT:
                raise Broken(where) from None

    def take_record(self, data, place):
        kind, *rest = ["entry", b"", data] if self.form == 1 else list.copy(unpack(data))
        need(self.form == 1 or (kind == "log") == (place == 1), "the first record says what the file is")
        if kind == "log":
            self.experiment, self.origin = rest
        elif kind == "head":
            self.take_head(*rest)
        else:
            self.take_entry(AuditedEntry(rest[1]), {"entry": False, "beside": True}[kind], rest[0], place)

    def take_entry(self, entry, beside, gap, place):
        before = self.last.get(entry.experiment)
        need(entry.holds, f"{self.path}, record {place}: {entry.name}: changed: the hash does not match", Broken)
        need(self.form == 1 or entry.number > self.number, f"{entry.name}: it stands in another place", Broken)
        follows = (entry.index, entry.previous) == ((before.index + 1, before.hash) if before else (1, ZERO))
        need(beside or follows, f"{entry.name}: it does not follow from the one before it, or some are missing", Broken)
        if self.form == 2:
            own = (entry.type in ("term", "register")) if beside else (entry.experiment == self.experiment)
            need(own, f"{entry.name}: it is no entry of {self.experiment}", Broken)
            if not self.behind and self.tree.cross(entry.number - 1, gap):
                self.tree.push(entry.leaf)
            need(self.tree.size == entry.number or not gap, f"{entry.name}: what stands before it does not fit", Broken)
            self.behind = self.tree.size != entry.number
        self.number, self.time, self.since = entry.number, entry.time, [*self.since[:1], entry]
        if beside and entry.type == "register" and type(data := unpack(entry.body).get("note")) is bytes:
            self.register = read_register(data, self.operator, self.origin, entry.name, self.register)
        if beside and entry.type == "term" and type(term := unpack(entry.body).get("term")) is int:
            need(term > self.term, f"{entry.name}: term {term} begins after term {self.term}", Broken)
            jump = {"entry": entry.number, "before": self.term, "term": term}
            self.jumps, self.term = self.jumps + [jump] * (0 <= self.term < term - 1), term
        if not beside:
            self.last[entry.experiment], self.last_hash, self.uncovered = entry, entry.hash, self.uncovered + 1
            self.check_input(entry, (body := unpack(entry.body, "input")).get("input"))
            if entry.type == "opening" and type(body.get("models")) is dict:
                self.shown.setdefault((entry.experiment, body["round"]), {})[body["sha256"]] = body["models"]

    def check_input(self, entry, given):
        """A step's time is that of its input; an event in it is signed, or of who has no key yet and needs none."""
        time = given.get("time") if type(given) is dict and entry.type == "step" else None
        apart = type(time) is float and abs(time - entry.time) > 1e-3
        need(not apart, f"{entry.name}: its time is not that of its input", Broken)
        try:
            payload, signature = unpack(given["raw"])
            said = unpack(payload, "time")
            sender, written = (said if "sender" in said else unpack(payload, "sender"))["sender"], said.get("time")
        except CANNOT:
            return
        mine = [k for k in self.register["keys"] if k["name"] == sender]
        good = [k for k in mine if k["since"] - SKEW <= written < k["until"] + SKEW]
        good = [k["key"] for k in good if self.time < k["until"] + LATE and max(written, self.time) < k["revoked"]]
        self.signed, self.unsigned = self.signed + bool(signature), self.unsigned + (not signature)
        self.roster |= {sender} if signature and said.get("kind") == "joined" else set()
        known = self.shown.get((entry.experiment, said.get("round"))) if signature else None
        at = payload.find(b"\xa3ext") if payload.count(b"\xa3ext") == 1 else -1  # where alone: the rest is not read
        if known and "answers" in (ext := unpack(payload)["ext"] if at < 0 else read_value(payload, at + 4, 15)[0]):
            shown, model = known.get(ext["answers"]), ext.get("model")
            named = model if shown is None else shown.get(sender, shown.get("", model))
            what = "opening" if shown is None else "model" if (model or named) != named else ""
            if what:
                self.views.append({"entry": entry.number, "site": sender, "round": said["round"], "what": what})
        asked = signature or self.register["signatures"] == "required" or any(k["since"] <= self.time for k in mine)
        if asked and self.register["serial"]:
            words = f"{entry.name}: the signature of {sender} in it is missing or does not hold"
            self.claims.append((words, good, EVENT + payload, signature))
            self.size += 4096 + len(payload)
            if self.size > 2**20:
                self.ask(2 * self.jobs)

    def take_head(self, gap, data):
        names = [one.name for one in self.since] or [f"{self.path}, journal numbers {self.tree.size + 1} and on"]
        where = " to ".join(dict.fromkeys((names[0], names[-1])))
        try:
            text, marks = read_note(data)
            size, root = read_head(text, self.origin)
        except CANNOT:
            raise Broken(f"{where}: the head behind it cannot be read, or is of another log") from None
        need(not self.behind and self.tree.cross(size, gap), f"{where}: the head of {size} does not fit here", Broken)
        need(self.tree.root() == root, f"{where}: the signed head of {size} entries has another root", Broken)
        own, witnesses = check_marks(text, marks, self.origin, self.keys_of)
        good = own and own + len(witnesses) == len(marks) and None not in witnesses.values()
        need(good, f"{where}: a signature under the head of {size} entries does not hold, or is missing", Broken)
        self.heads.append((size, text, witnesses))
        self.since, self.uncovered = [], 0

    def compare_kept(self, text, marks):  # a head that was kept is one of this log's, else it was cut or forked
        own = check_marks(text, marks, self.origin, self.keys_of)[0]
        need(own, "the coordinator of this log did not sign the head that was kept", Unreadable)
        size, newest = read_head(text, self.origin)[0], self.heads[-1][0]
        where, what = f"{self.path}, behind journal number {min(size, newest)}", "cut" if size > newest else "forked"
        need(text in [one[1] for one in self.heads], f"{where}: the log was {what}: a head of {size} was kept", Broken)


def verify_proof(plain, operator):  # what a proof of one entry shows
    try:
        entry = AuditedEntry(base64.b64decode(plain["entry"], validate=True))
        text, marks = read_note(plain["head"].encode())
        origin, path, data = text.split("\n")[0], list(map(bytes.fromhex, plain["path"])), plain["register"].encode()
        size, root = read_head(text, origin)
        ["konsil proof 1"].index(plain["format"])
    except CANNOT:
        raise Unreadable("is no proof of an entry") from None
    register = read_register(data, operator, origin, entry.name, NO_REGISTER)
    own, times = check_marks(text, marks, origin, lambda name: list_keys(register, name, entry.time, later=True))
    if not entry.holds or not own or find_root(entry.leaf, entry.number - 1, size, path) != root:
        raise Broken(f"{entry.name}: changed, not in the log of that head, or the coordinator did not sign that")
    return {"entry": entry.name, "complete_to": size, "witnesses": {k: v for k, v in times.items() if v is not None}}


def verify_file(path, operator, head, jobs):
    with open(path, "rb") as file:
        if file.read(1) == b"{":
            return verify_proof(json.loads(b"{" + file.read()), operator)
    log = Log(path, operator, read_note(Path(head).read_bytes()) if head else None)
    log.verify(jobs)
    size, _text, seen = log.heads[-1] if log.heads else (0, "", {})
    found = {"entries": {k: v.index for k, v in log.last.items()}, "uncovered": log.uncovered, "complete_to": size}
    found |= {"signed_events": log.signed, "unsigned_events": log.unsigned, "witnesses": seen, "views": log.views}
    last = {site: max((one[0] for one in log.heads if site in one[2]), default=0) for site in sorted(log.roster)}
    found |= {"term_jumps": log.jumps, "behind": {k: v for k, v in last.items() if v < max(last.values())}}
    return found | {"operator_checked": bool(operator) and log.register is not NO_REGISTER}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("file", "--operator", "--head"):
        parser.add_argument(name, default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: one for each core, where the log is large")
    said = parser.parse_args()
    try:
        need(re.fullmatch("([0-9a-f]{64})?", said.operator), "--operator: is no key: 64 hexadecimal digits", Unreadable)
        found = verify_file(said.file, bytes.fromhex(said.operator), said.head, said.jobs)
    except Broken as error:
        print(json.dumps({"verified": False, "problem": str(error)}) if said.json else f"BROKEN: {error}")
        return 1
    except (Unreadable, OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    text = "".join(f"{name}: {value}\n" for name, value in found.items())
    text += f"complete to {found['complete_to']}, witnessed by {', '.join(sorted(found['witnesses'])) or 'nobody'}"
    print(json.dumps({"verified": True, "operator_checked": bool(said.operator), **found}) if said.json else text)
    return 0


if __name__ == "__main__":
    freeze_support()
    sys.exit(main())
