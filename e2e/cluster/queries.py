"""The cluster test's own client: queries over HTTP, compared with SQL, or sent without a pause while pods come and go.

    queries.py compare --url URL [--url URL …] --xid XID --count N --seed N   every URL answers as SQL does
    queries.py until --url URL --filter JSON --expect N                        how long until a count is right
    queries.py load --url URL --stop FILE --clients N                          searches until FILE exists

SQL goes through psql to E2E_DATABASE_URL. A search is retried on a new connection when the connection breaks
or the answer is 503, and has failed when a second has gone by without an answer.
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import urllib.parse

INDEX = "images"
DEADLINE = 1.0


class Unavailable(Exception):
    pass


class Client:
    """One connection at a time; thread-bound."""

    def __init__(self, url):
        self.address = urllib.parse.urlsplit(url).netloc
        self.connection = None
        self.retries = []

    def once(self, call, request, timeout):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, timeout=timeout)
        try:
            self.connection.timeout = timeout
            if self.connection.sock:
                self.connection.sock.settimeout(timeout)
            body = json.dumps({"index": INDEX, **request})
            headers = {"content-type": "application/json", "x-timeout-ms": str(int(timeout * 1000))}
            self.connection.request("POST", f"/v1/{call}", body, headers)
            response = self.connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(repr(error)) from error
        if response.status == 503:
            self.close()
            raise Unavailable(text.decode())
        if response.status != 200:
            raise RuntimeError(f"{call} {body}: {response.status} {text.decode()}")
        return json.loads(text)

    def call(self, call, request, deadline=DEADLINE):
        end = time.monotonic() + deadline
        while True:
            try:
                return self.once(call, request, max(end - time.monotonic(), 0.01))
            except Unavailable as error:
                if time.monotonic() >= end:
                    raise Unavailable(f"no answer within {deadline} s: {error}") from error
                self.retries.append(str(error).split("(")[0])
                time.sleep(0.005)

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None


def psql(script):
    command = ["psql", os.environ["E2E_DATABASE_URL"], "-XqAt", "-v", "ON_ERROR_STOP=1"]
    return subprocess.run(command, input=script, capture_output=True, text=True, check=True).stdout.splitlines()


def random_test(random_, now_us):
    """A test of one field, as JSON and as SQL that is true or false, never null."""
    many = lambda top, most: sorted({int(random_.random() ** 3 * top) + 1 for _ in range(random_.randint(1, most))})
    kind = random_.randrange(13)
    if kind == 0:
        user = many(200, 1)[0]
        return {"field": "userId", "eq": user}, f'"userId" = {user}'
    if kind == 1:
        levels = random_.sample([1, 2, 4, 8, 16, 32], random_.randint(1, 5))
        return {"field": "nsfwLevel", "in": levels}, f'"nsfwLevel" IN ({",".join(map(str, levels))})'
    if kind == 2:
        return {"field": "type", "ne": "video"}, "type <> 'video'"
    if kind == 3:
        tags = many(300, 3)
        return {"field": "tagIds", "in": tags}, f'coalesce("tagIds" && ARRAY{tags}, false)'
    if kind == 4:
        tags = many(20, 2)
        return {"field": "tagIds", "all": tags}, f'coalesce("tagIds" @> ARRAY{tags}, false)'
    if kind == 5:
        tags = many(50, 3)
        return {"field": "tagIds", "not_in": tags}, f'NOT coalesce("tagIds" && ARRAY{tags}, false)'
    if kind == 6:
        base = f"base {random_.randint(0, 6)}"
        return {"field": "baseModels", "eq": base}, f"""coalesce("baseModels" && ARRAY['{base}'], false)"""
    if kind == 7:
        return {"field": "resourcePoi", "eq": True}, 'coalesce("resourcePoi" && ARRAY[true], false)'
    if kind == 8:
        versions = many(60, 4)
        return {"field": "modelVersionIds", "in": versions}, f'coalesce("modelVersionIds" && ARRAY{versions}, false)'
    if kind == 9:
        hours = random_.choice([24, 24 * 30, 24 * 200])
        at = now_us - hours * 3_600_000_000
        sql = f"\"sortAt\" >= timestamptz 'epoch' + {at} * interval '1 microsecond'"
        return {"field": "sortAt", "ge": {"now": f"-{hours}h"}}, sql
    if kind == 10:
        return {"field": "width", "is_null": True}, "width IS NULL"
    if kind == 11:
        width = random_.randint(0, 1920)
        return {"field": "width", "lt": width}, f"coalesce(width < {width}, false)"
    return (
        {"and": [{"field": "availability", "eq": "Public"}, {"field": "isPublished", "eq": True}, {"field": "blockedFor", "is_null": True}]},
        """coalesce(availability = 'Public', false) AND "isPublished" AND "blockedFor" IS NULL""",
    )


def random_filter(random_, now_us, depth=0):
    if depth == 2 or random_.random() < 0.3:
        return random_test(random_, now_us)
    parts = [random_filter(random_, now_us, depth + 1) for _ in range(random_.randint(2, 3))]
    word = random_.choice(["and", "and", "or", "not"])
    if word == "not":
        return {"not": parts[0][0]}, f"NOT ({parts[0][1]})"
    return {word: [json_ for json_, _ in parts]}, "(" + f") {word} (".join(sql for _, sql in parts) + ")"


def random_query(random_, now_us):
    filter_, sql = random_filter(random_, now_us)
    field, descending = random_.choice(["sortAt", "sortAt", "width", "userId", "id"]), random_.random() < 0.7
    limit = random_.choice([1, 20, 50, 100, 500])
    order = f'"{field}" {"DESC" if descending else "ASC"} NULLS LAST, id {"DESC" if descending else "ASC"}'
    request = {"filter": filter_, "sort": [{"field": field, "descending": descending}], "limit": limit, "now_us": now_us, "count": True}
    ids = f"SELECT id FROM now_expected WHERE {sql} ORDER BY {order} LIMIT {2 * limit}"
    answer = f"SELECT json_build_object('ids', (SELECT coalesce(json_agg(id), '[]') FROM ({ids}) AS page), 'count', (SELECT count(*) FROM now_expected WHERE {sql}));"
    return request, answer


def compare(arguments):
    """The first two pages and the exact count of random queries, on each address."""
    random_, now_us = random.Random(arguments.seed), time.time_ns() // 1000
    queries = [random_query(random_, now_us) for _ in range(arguments.count)]
    visible = f"\"publishedAt\" IS NULL OR \"publishedAt\" <= timestamptz 'epoch' + {now_us} * interval '1 microsecond'"
    rows = psql(f"CREATE TEMP TABLE now_expected AS SELECT * FROM expected WHERE {visible};" + "\n".join(sql for _, sql in queries))
    differences, hits = 0, 0
    for url in arguments.url:
        client = Client(url)
        for (request, sql), row in zip(queries, rows, strict=True):
            expected, request = json.loads(row), {**request, "consistency": {"postgres_xid": arguments.xid}}
            page = client.call("search", request, deadline=20)
            ids = [hit["id"] for hit in page["hits"]]
            if page.get("next_cursor"):
                more = client.call("search", {**request, "cursor": page["next_cursor"]}, deadline=20)
                ids += [hit["id"] for hit in more["hits"]]
            hits += len(ids)
            if ids != expected["ids"] or page["count"] != expected["count"]:
                differences += 1
                print(f"DIFFERENCE at {url}\n  request {json.dumps(request)}\n  sql {sql}\n  expected {expected}\n  got {ids} count {page['count']}")
    print(f"{len(queries)} queries at {len(arguments.url)} addresses, {hits} hits, {differences} differences, seed {arguments.seed}")
    return differences == 0 and hits > 0


def until(arguments):
    """Waits, by asking again, until a count is as expected; without a transaction's id it sees the plain delay."""
    client, begin = Client(arguments.url[0]), time.monotonic()
    consistency = {"consistency": {"postgres_xid": arguments.xid}} if arguments.xid else {}
    while True:
        count = client.call("count", {"filter": json.loads(arguments.filter), **consistency}, deadline=5)["count"]
        if count == arguments.expect:
            print(f"{(time.monotonic() - begin) * 1000:.0f} ms")
            return True
        if time.monotonic() - begin > arguments.seconds:
            print(f"still {count}, not {arguments.expect}, after {arguments.seconds} s")
            return False
        time.sleep(0.002)


def load(arguments):
    """Searches from several clients until the stop file exists; fails if one search did."""
    lock, times, failures, retries = threading.Lock(), [], [], []
    stop = pathlib.Path(arguments.stop)

    def run(seed):
        random_, client, mine = random.Random(seed), Client(arguments.url[0]), []
        while not stop.exists():
            request, _ = random_query(random_, time.time_ns() // 1000)
            begin = time.monotonic()
            try:
                client.call("search", request)
            except (Unavailable, RuntimeError) as error:
                with lock:
                    failures.append(f"{time.strftime('%X')} {error}")
            mine.append((time.monotonic() - begin) * 1000)
            time.sleep(0.01)
        with lock:
            times.extend(mine)
            retries.extend(client.retries)

    threads = [threading.Thread(target=run, args=(arguments.seed + n,)) for n in range(arguments.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    rank = lambda share: times[min(int(len(times) * share), len(times) - 1)]
    why = "".join(f" {reason} {count}" for reason, count in collections.Counter(retries).items())
    print(*failures[:10], sep="\n", end="\n" if failures else "")
    print(f"{len(times)} searches, {len(failures)} failed, {len(retries)} retries{why}, p50 {rank(0.5):.1f} ms, p99 {rank(0.99):.1f} ms, slowest {times[-1]:.0f} ms")
    return not failures and len(times) > 100


parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["compare", "until", "load"])
parser.add_argument("--url", action="append", required=True)
parser.add_argument("--xid", type=int)
parser.add_argument("--count", type=int, default=20)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--filter")
parser.add_argument("--expect", type=int)
parser.add_argument("--seconds", type=float, default=30)
parser.add_argument("--stop")
parser.add_argument("--clients", type=int, default=4)
arguments = parser.parse_args()
sys.exit(not {"compare": compare, "until": until, "load": load}[arguments.command](arguments))
