"""Asks vaultd with hvac: a request as JSON a line on standard input, its result on standard output."""
import json
import sys

import hvac

STATUS = {
    hvac.exceptions.InvalidRequest: 400,
    hvac.exceptions.Forbidden: 403,
    hvac.exceptions.InvalidPath: 404,
    hvac.exceptions.RateLimitExceeded: 429,
    hvac.exceptions.VaultDown: 503,
}


def ask(request):
    client = hvac.Client(url=request["url"], token=request["token"] or None)
    kv, op, path = client.secrets.kv.v2, request["op"], request["path"]
    if op == "read":
        found = kv.read_secret_version(path, version=request["version"] or None)["data"]
        return {"data": found["data"], "version": found["metadata"]["version"]}
    if op == "metadata":
        found = kv.read_secret_metadata(path)["data"]
        return {"version": found["current_version"], "keys": sorted(found["versions"])}
    if op == "list":
        return {"keys": kv.list_secrets(path)["data"]["keys"]}
    if op == "lookup":
        return {"data": {"id": client.lookup_token()["data"]["id"]}, "keys": client.lookup_token()["data"]["policies"]}
    if op == "renew":
        return {"data": client.auth.token.renew_self()}
    if op == "write":
        return {"data": kv.create_or_update_secret(path, {"a": "b"})}
    if op == "health":
        return {"data": {"ready": client.sys.is_initialized() and not client.sys.is_sealed()
                         and client.sys.read_health_status().status_code == 200}}
    raise ValueError(op)


for line in sys.stdin:
    try:
        result = ask(json.loads(line))
    except hvac.exceptions.VaultError as error:
        status = STATUS.get(type(error), 0)
        if status == 0 and "only read here" in str(error):  # hvac does not tell the status 405
            status = 405
        result = {"status": status, "error": str(error)}
    print(json.dumps(result), flush=True)
