"""A small process that stands for a service: answers ``/health/ready``, or misbehaves as it is told."""

import argparse
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Health(BaseHTTPRequestHandler):
    """Ready at once."""

    def do_GET(self) -> None:
        """Any path is healthy."""
        body = b'{"status": "healthy", "checks": {}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fail", help="say this and exit with code 3")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--hang", action="store_true", help="never get ready")
    options = parser.parse_args()
    if options.fail:
        sys.stderr.write(f"{options.fail}\n")
        sys.exit(3)
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.hang:
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", options.port), Health).serve_forever()


if __name__ == "__main__":
    main()
