"""A health check for containers, which have no shell and no curl: ``python -m loopai_common.runtime.probe URL``."""

import sys
import urllib.request

_SECONDS = 3.0


def main(url: str) -> int:
    """Exit code 0 when ``url`` answers with a success, else 1 with the reason on standard error."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_SECONDS):
            return 0
    except (OSError, ValueError) as error:  # an HTTP error is an OSError
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
