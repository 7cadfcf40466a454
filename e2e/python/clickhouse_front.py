"""An HTTP front over the ClickHouse engine of the chdb wheel, for tests on machines without a ClickHouse server.

Answers what clients of ClickHouse's own HTTP interface send: a query in the body or in `?query=` (both: the parameter,
then the body, as for INSERT … FORMAT), `database`, `default_format`, `param_NAME`, and settings. Errors carry
ClickHouse's message and the header X-ClickHouse-Exception-Code. `/ping` answers once the engine runs.

Usage: clickhouse_front.py PORT DATA_FOLDER
"""

import re
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chdb import session

# What clients send about themselves or the transport; there is nothing to do for them here.
IGNORED = {
    "user", "password", "query_id", "session_id", "session_timeout", "session_check", "wait_end_of_query",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms", "buffer_size", "client_protocol_version",
    "role", "quota_key", "enable_http_compression",
}
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LOCK = threading.Lock()


class BadRequest(Exception):
    pass


def quoted(name):
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def run(engine, query, arguments):
    """Runs one query; settings hold for it alone."""
    output, database, settings, parameters = "TabSeparated", "default", {}, {}
    for name, value in arguments:
        if name == "default_format":
            output = value
        elif name == "database":
            database = value
        elif name.startswith("param_"):
            parameters[name[len("param_"):]] = value
        elif name in ("compress", "decompress"):
            if value != "0":
                raise BadRequest(f"{name}={value}: this front neither compresses nor decompresses")
        elif name in IGNORED:
            pass
        elif NAME.fullmatch(name):
            settings[name] = value
        else:
            raise BadRequest(f"unknown parameter {name}")
    with LOCK:
        engine.query(f"USE {quoted(database or 'default')}")
        try:
            for name, value in settings.items():
                text = value.replace("\\", "\\\\").replace("'", "\\'")
                engine.query(f"SET {name} = '{text}'")
            result = engine.query(query, output, params=parameters or None)
            return result.bytes()
        finally:
            for name in settings:
                engine.query(f"SET {name} = DEFAULT")


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small answers go out at once.
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(iter(self.chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(body)

    def chunk(self):
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def answer(self, body):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/ping":
            return self.send(200, b"Ok.\n")
        try:
            arguments = urllib.parse.parse_qsl(url.query, keep_blank_values=True)
            queries = [value for name, value in arguments if name == "query"]
            arguments = [(name, value) for name, value in arguments if name != "query"]
            query = "\n".join(queries + ([body.decode()] if body else []))
            if not query.strip():
                raise BadRequest("no query: send it in the body or in ?query=")
            self.send(200, run(self.server.engine, query, arguments))
        except (BadRequest, UnicodeDecodeError) as error:
            self.send(400, f"{error}\n".encode())
        except Exception as error:  # chdb's own errors, whatever their class
            text = str(error)
            code = re.match(r"Code: (\d+)", text)
            self.send(500, f"{text}\n".encode(), code.group(1) if code else "1002")

    def send(self, status, body, code=None):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    port, data = int(sys.argv[1]), sys.argv[2]
    server = Server(("127.0.0.1", port), Front)
    server.engine = session.Session(data)
    server.engine.query("SELECT 1")
    server.serve_forever()


if __name__ == "__main__":
    main()
