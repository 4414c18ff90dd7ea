"""One task from its description to an answer, over HTTP. What `helm test` runs; needs nothing but Python.

LOOPAI_URL and LOOPAI_API_KEY say where and as whom. LOOPAI_CERTIFICATE is a file with the very certificate that the
api serves, where it serves HTTPS itself; LOOPAI_FORWARDED_PROTO is what a proxy before it would say.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid

READY_SECONDS = 120
TASK = {
    "name": f"smoke-test-{uuid.uuid4().hex[:12]}",
    "description": "The mood of a message.",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    "output_schema": {"enum": ["happy", "angry"]},
    "examples": [
        {"input": {"text": "what a lovely day"}, "output": "happy"},
        {"input": {"text": "this is the worst"}, "output": "angry"},
        {"input": {"text": "thank you so much, I love it"}, "output": "happy"},
        {"input": {"text": "I hate waiting, terrible service"}, "output": "angry"},
    ],
}


def tls():
    """The certificate is for the name that clients use, so it is compared itself and not its name."""
    file = os.environ.get("LOOPAI_CERTIFICATE")
    if not file:
        return None
    context = ssl.create_default_context(cafile=file)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def call(method, path, body=None):
    """The answer's JSON; an answer that is none of success ends the test with its text."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('LOOPAI_API_KEY', '')}"}
    if os.environ.get("LOOPAI_FORWARDED_PROTO"):
        headers["X-Forwarded-Proto"] = os.environ["LOOPAI_FORWARDED_PROTO"]
    if method == "DELETE":
        headers["If-Match"] = "*"
    request = urllib.request.Request(
        os.environ["LOOPAI_URL"].rstrip("/") + path, None if body is None else json.dumps(body).encode(), headers
    )
    request.method = method
    try:
        with urllib.request.urlopen(request, timeout=30, context=tls()) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{method} {path}: {error}; is the api ready, and may this pod reach it?")
    return json.loads(text) if text else None


def ready(task):
    """The task, once its program is active."""
    deadline = time.monotonic() + READY_SECONDS
    while task["status"] == "generating":
        if time.monotonic() > deadline:
            sys.exit(f"no program after {READY_SECONDS} s; look at the generator-proxy's log")
        time.sleep(1)
        task = call("GET", f"/api/v1/tasks/{task['id']}")
    if task["status"] != "ready":
        sys.exit(f"the task is {task['status']}: {task['status_reason']}")
    return task


def main():
    task = call("POST", "/api/v1/tasks", TASK)
    print("created", task["id"], flush=True)
    try:
        version = ready(task)["active_version"]
        print("ready, version", version, flush=True)
        answer = call("POST", f"/api/v1/tasks/{task['id']}/execute", {"input": {"text": "I love this lovely place"}})
        if answer["status"] != "success" or answer["output"] != "happy":
            sys.exit(f"an unexpected answer: {answer}")
        print("executed:", answer["output"], flush=True)
    finally:
        call("DELETE", f"/api/v1/tasks/{task['id']}")


if __name__ == "__main__":
    main()
