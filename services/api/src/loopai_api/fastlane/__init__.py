"""The fast lane: plain execute requests are answered in the HTTP protocol itself, before ASGI.

Everything unusual falls through to the ordinary route, which answers the same bytes. What both lanes decide (parsing,
limits, batching, errors, rendering, metrics) is in ``loopai_api.execution``; here is only the way in and out.
"""
