"""gRPC's own HTTP/2: enough of RFC 9113 to answer unary calls, on the loop's thread and nobody else's.

Bytes to frames: :mod:`frames`. Header blocks to what a call asks: :mod:`heads`. Payload to one message: :mod:`stream`.
The connection that holds them together: :mod:`connection`. Header compression is the library ``hpack``'s.
"""
