#!/usr/bin/env python3
"""Reads and writes what a vault stores, by docs/FORMAT.md alone. It shares no code with the vault.

Takes Python 3.9 and PyNaCl (Debian: python3-nacl). Keys come from files, never from the command line.

  format.py open KEK CLUSTER_ID < ROW.json > VALUE             a row of vault.secret_versions, as row_to_json writes it
  format.py seal KEK CLUSTER_ID NAME VERSION < VALUE > ROW.json
  format.py audit ARCHIVE [PUBLIC_KEY]                         a file of `vaultctl audit archive`
  format.py check FOLDER_OF_THE_REPOSITORY                     the vectors of this repository
"""
import base64
import datetime
import hashlib
import hmac
import ipaddress
import json
import os
import re
import struct
import sys
import uuid

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt as aead_open,
    crypto_aead_xchacha20poly1305_ietf_encrypt as aead_seal,
)
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey


class Refused(Exception):
    """What is stored is not what the vault sealed."""


def need(holds, why):
    if not holds:
        raise Refused(why)


# 1. The key file and its id


def kek_id(kek):
    return "local:" + hashlib.sha256(b"hyperiondb-vault/kek-id/1" + kek).digest()[:16].hex()


def read_kek(path):
    with open(path, "rb") as f:
        kek = f.read()
    need(len(kek) == 32, "a key file holds exactly 32 bytes")
    return kek


# 2. The wrapped data key of a local key


def wrap_aad(name, version, cluster):
    parts = [aad_of(name, version), cluster.encode()]
    return b"hyperiondb-vault/local-wrap/1" + b"".join(struct.pack(">I", len(p)) + p for p in parts)


def wrap(kek, data_key, name, version, cluster, nonce):
    return b"\x01" + nonce + aead_seal(data_key, wrap_aad(name, version, cluster), nonce, kek)


def unwrap(kek, blob, name, version, cluster):
    need(len(blob) == 73 and blob[0] == 1, "the wrapped data key is not one of a local key")
    return aead_open(blob[25:], wrap_aad(name, version, cluster), blob[1:25], kek)


# 3. The sealed row


def aad_of(name, version):
    return f"{name}:{version}".encode()


def commit(data_key, aad):
    prk = hmac.digest(bytes(32), data_key, "sha256")
    return hmac.digest(prk, b"hyperiondb-vault/commit/1" + aad + b"\x01", "sha256")


def open_sealed(data_key, name, version, fmt, nonce, aad, ciphertext, key_commit):
    need(fmt == 1, "unknown format")
    need(len(nonce) == 24, "the nonce has another length")
    need(17 <= len(ciphertext) <= 65552, "the ciphertext has another length")
    need(len(key_commit) == 32, "the key commitment has another length")
    need(1 <= version <= 2**31 - 1, "there is no such version")
    need(aad.encode() == aad_of(name, version), "the aad is not that of this name and version")
    need(hmac.compare_digest(key_commit, commit(data_key, aad_of(name, version))),
         "the key commitment is not that of this data key")
    return aead_open(ciphertext, aad_of(name, version), nonce, data_key)


def open_row(kek, cluster, row):
    column = lambda c: bytes.fromhex(row[c].removeprefix("\\x"))
    need(row["kms_key_id"] == kek_id(kek), f"the row was wrapped by {row['kms_key_id']}, which this key file is not")
    data_key = unwrap(kek, column("wrapped_dek"), row["name"], row["version"], cluster)
    return open_sealed(data_key, row["name"], row["version"], row["fmt"], column("nonce"), row["aad"],
                       column("ciphertext"), column("key_commit"))


def seal_row(kek, cluster, name, version, value, data_key=None, wrap_nonce=None, nonce=None):
    need(1 <= len(value) <= 65536, "a value has 1 to 65536 bytes")
    data_key, nonce = data_key or os.urandom(32), nonce or os.urandom(24)
    aad = aad_of(name, version)
    column = lambda b: "\\x" + b.hex()
    return {"name": name, "version": version, "fmt": 1, "kms_key_id": kek_id(kek),
            "wrapped_dek": column(wrap(kek, data_key, name, version, cluster, wrap_nonce or os.urandom(24))),
            "nonce": column(nonce), "ciphertext": column(aead_seal(value, aad, nonce, data_key)),
            "key_commit": column(commit(data_key, aad)), "aad": aad.decode()}


# 4. The audit log


class Number(str):
    """A number as it is written."""


def load(text):
    return json.loads(text, parse_int=Number, parse_float=Number)


def canonical(v):
    if isinstance(v, Number):
        return str(v)
    if isinstance(v, dict):
        return "{" + ",".join(canonical(k) + ":" + canonical(v[k]) for k in sorted(v, key=lambda k: k.encode())) + "}"
    if isinstance(v, list):
        return "[" + ",".join(map(canonical, v)) + "]"
    if isinstance(v, str):
        return json.dumps(v, ensure_ascii=False).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return {True: "true", False: "false", None: "null"}[v]


def micros(t):
    if t.startswith("@"):
        return int(t[1:])
    if t == "0000-01-01T00:00:00.000000001Z":
        return -(2**63)
    if t == "9999-12-31T23:59:59.999999999Z":
        return 2**63 - 1
    m = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})0*)?Z", t)
    need(m, f"the time {t!r} has another form")
    since = datetime.datetime.fromisoformat(m[1]) - datetime.datetime(1970, 1, 1)
    return (since.days * 86400 + since.seconds) * 10**6 + int((m[2] or "").ljust(6, "0"))


def month_of(t):
    us = micros(t)
    if us < -62135596800 * 10**6:
        return "0001-01"
    if us >= 253402300800 * 10**6:
        return "9999-12"
    day = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=us // 10**6)
    return f"{day.year:04}-{day.month:02}"


def leaf(row):
    def value(b):
        return b"\0" if b is None else b"\1" + struct.pack(">I", len(b)) + b

    def number(n):
        return value(None if n is None else struct.pack(">Q", int(n) % 2**64))

    def text(s):
        return value(None if s is None else s.encode())

    def client(c):
        if c is None:
            return value(None)
        i = ipaddress.ip_interface(c)
        return value(i.ip.packed + bytes([i.network.prefixlen]))

    request, since, earlier = row.get("request_id"), row.get("since"), row.get("earlier")
    several = since is not None or earlier is not None
    more = (number(None if since is None else micros(since)) +
            text(None if earlier is None else canonical(earlier))) if several else b""
    return hashlib.sha256(b"\0" + (b"hyperiondb-vault/audit-row/2\0" if several else b"hyperiondb-vault/audit-row/1\0") +
                          number(row["id"]) + number(row["system_id"]) +
                          number(row["tx"]) + number(micros(row["at"])) + number(micros(row["recorded_at"])) +
                          text(row["actor"]) + text(row["db_role"]) + client(row.get("client")) + text(row.get("node")) +
                          text(row["action"]) + text(row.get("secret")) + number(row.get("version")) +
                          text(row["outcome"]) + value(request and uuid.UUID(request).bytes) +
                          text(canonical(row["detail"])) + more).digest()


def check_reads(row):
    """Refuses a row of many reads whose arrays do not fit one another."""
    e = row.get("earlier")
    holds = (e is None) == (row.get("since") is None)
    if holds and e is not None:
        arrays = ("ago", "back", "requests", "reader", "actors", "clients", "versions", "details")
        holds = e["reads"] is not None and all(isinstance(e[a], list) for a in arrays)
    if holds and e is not None:
        ago, readers = e["ago"], range(1, len(e["actors"]) + 1)
        holds = (len(ago) > 0 and int(e["reads"]) == len(ago) + 1 and
                 all(len(e[a]) == len(ago) for a in ("back", "requests", "reader")) and
                 all(len(e[a]) == len(readers) for a in ("clients", "versions", "details")) and
                 None not in ago and None not in e["back"] and None not in e["reader"] and
                 all(int(a) <= int(b) for a, b in zip(["0"] + ago, ago)) and
                 all(int(r) in readers and e["actors"][int(r) - 1] is not None for r in e["reader"]))
    need(holds, f"the reads of row {row['id']} do not fit one another")


def root(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()


def genesis(cluster):
    return hashlib.sha256(b"hyperiondb-vault/audit-chain/1\0" + uuid.UUID(cluster).bytes).digest()


def seal_hash(s):
    number = lambda n: struct.pack(">Q", int(n) % 2**64)
    return hashlib.sha256(b"hyperiondb-vault/audit-seal/1\0" + number(s["id"]) + number(s["system_id"]) +
                          s["month"].encode() + b"".join(number(s[f]) for f in
                                                         ("from_tx", "to_tx", "rows", "first_id", "last_id")) +
                          number(micros(s["sealed_at"])) + bytes.fromhex(s["root"]) + bytes.fromhex(s["previous"]) +
                          s["key_id"].encode()).digest()


def check_seal(s, previous):
    need(seal_hash(s).hex() == s["hash"], f"seal {s['id']} was changed")
    if previous is not None:
        need(s["previous"] == previous, f"seal {s['id']} does not follow the one before")
    public = base64.urlsafe_b64decode(s["key_id"].removeprefix("ed25519:") + "=")
    message = b"hyperiondb-vault/audit-signature/1\0" + bytes.fromhex(s["hash"])
    VerifyKey(public).verify(message, base64.b64decode(s["signature"]))


def check_rows(s, entries):
    entries.sort(key=lambda e: (int(e["tx"]), int(e["id"])))
    for e in entries:
        if "hash" not in e:
            check_reads(e)
    leaves = [bytes.fromhex(e["hash"]) if "hash" in e else leaf(e) for e in entries]
    need(len(leaves) == int(s["rows"]) and root(leaves).hex() == s["root"],
         f"seal {s['id']} does not fit its {len(leaves)} rows")
    ids = [int(e["id"]) for e in entries]
    need(min(ids) == int(s["first_id"]) and max(ids) == int(s["last_id"]), f"seal {s['id']} has other rows")


def audit(path, public=None):
    with open(path, encoding="utf-8") as f:
        lines = [load(line) for line in f]
    header, end, lines = lines[0], lines[-1], lines[1:-1]
    need(header["format"] == "hyperiondb-vault/audit-export/1" and "end" in end, "not a whole archive")
    seals, rows, entries = [], 0, []
    for line in lines:
        if "seal" in line:
            seals.append(line["seal"])
        elif "leaf" in line:
            entries.append(line["leaf"])
        else:
            line["month"] = month_of(line["at"])
            entries.append(line)
    previous = None if header["partial"] else genesis(header["cluster_id"]).hex()
    pruned = {(p["month"], int(i)) for p in header["prunes"] if not p.get("action")
              for i in range(1, int(p["last_seal"]) + 1)}
    for s in sorted(seals, key=lambda s: int(s["id"])):
        check_seal(s, previous)
        need(public in (None, s["key_id"]), f"seal {s['id']} is signed by {s['key_id']}")
        previous = None if header["partial"] else s["hash"]
        if (s["month"], int(s["id"])) in pruned:
            continue
        mine = [e for e in entries if e["system_id"] == s["system_id"] and e["month"] == s["month"] and
                int(s["from_tx"]) <= int(e["tx"]) < int(s["to_tx"])]
        check_rows(s, mine)
        rows += len(mine)
    print(f"{len(seals)} seals fit {rows} rows; {len(entries) - rows} rows are not sealed")


# The vectors


def bulk(b):
    if "mod251" in b:
        return bytes(i % 251 for i in range(b["mod251"]))
    return bytes(b["zero"]) if "zero" in b else bytes.fromhex(b["hex"])


def check(folder):
    def read(*path):
        with open(os.path.join(folder, *path), encoding="utf-8") as f:
            return f.read()

    count = 0
    for v in json.loads(read("docs", "format", "vectors.json")):
        hexes = lambda f: bytes.fromhex(v[f])
        row = seal_row(hexes("kek"), v["cluster_id"], v["row"]["name"], v["row"]["version"], hexes("value"),
                       hexes("data_key"), hexes("wrap_nonce"), hexes("nonce"))
        need(row == v["row"], f"another row than {v['row']['aad']}")
        need(open_row(hexes("kek"), v["cluster_id"], v["row"]) == hexes("value"), "another value")
        count += 1
    for v in json.loads(read("internal", "envelope", "testdata", "good.json")):
        key, nonce, value = bytes.fromhex(v["data_key"]), bytes.fromhex(v["nonce"]), bulk(v["value"])
        sealed = aead_seal(value, aad_of(v["name"], v["version"]), nonce, key)
        want = v["ciphertext"]
        same = hashlib.sha256(sealed).hexdigest() == want["sha256"] if "sha256" in want else sealed == bulk(want)
        need(same and commit(key, v["aad"].encode()).hex() == v["key_commit"], v["id"])
        need(open_sealed(key, v["name"], v["version"], v["fmt"], nonce, v["aad"], sealed,
                         bytes.fromhex(v["key_commit"])) == value, v["id"])
        count += 1
    for v in json.loads(read("internal", "envelope", "testdata", "tampered.json")):
        try:
            open_sealed(bytes.fromhex(v["data_key"]), v["name"], v["version"], v["fmt"], bytes.fromhex(v["nonce"]),
                        v["aad"], bulk(v["ciphertext"]), bytes.fromhex(v["key_commit"]))
        except (Refused, CryptoError):
            count += 1
        else:
            raise Refused(f"{v['id']} opened")
    log = load(read("internal", "audit", "seal", "testdata", "vectors.json"))
    need(genesis("00000000-0000-4000-8000-00000000ca0a").hex() == log["genesis"], "another genesis")
    for v in log["rows"]:
        need(leaf(v["row"]).hex() == v["leaf"], f"row {v['row']['id']} has another leaf")
        count += 1
    previous = log["genesis"]
    for s in log["seals"]:
        check_seal(s, previous)
        previous = s["hash"]
        count += 1
    for s in (log["seals"][0], log["seals"][2]):  # the rows of the second are not among the vectors
        check_rows(s, [v["row"] for v in log["rows"] if int(s["from_tx"]) <= int(v["row"]["tx"]) < int(s["to_tx"])])
    print(f"{count} vectors fit")


def main(args):
    try:
        if len(args) == 3 and args[0] == "open":
            sys.stdout.buffer.write(open_row(read_kek(args[1]), args[2], json.load(sys.stdin)))
        elif len(args) == 5 and args[0] == "seal":
            row = seal_row(read_kek(args[1]), args[2], args[3], int(args[4]), sys.stdin.buffer.read())
            print(json.dumps(row, separators=(",", ":")))
        elif len(args) in (2, 3) and args[0] == "audit":
            audit(*args[1:])
        elif len(args) == 2 and args[0] == "check":
            check(args[1])
        else:
            sys.exit(__doc__)
    except Refused as e:
        sys.exit(f"format.py: {e}")
    except CryptoError:
        sys.exit("format.py: the tag or the signature does not fit")


if __name__ == "__main__":
    main(sys.argv[1:])
