"""Serving: one engine a model, behind HTTP and gRPC, in workers under a supervisor.

A request, in order: :mod:`connection` reads it, :mod:`rest` (or :mod:`rpc`) routes it, :mod:`protocol` (or :mod:`wire`)
decodes it, :mod:`service` submits it to the model's engine and measures it, and the answer goes the same way back. All
of that on one loop; the engine's lanes are the only other threads.

A server, from the outside in: :mod:`app` takes ports and places workers, :mod:`supervisor` keeps them alive
(:mod:`process` is one of them from there), :mod:`commands` are what it can be asked, over :mod:`control`; :mod:`worker`
is the process itself, with a :mod:`repository` of models. :mod:`sources` and :mod:`deployment` decide what is served
and on which cores; :mod:`meters` count, :mod:`metrics` print.
"""
