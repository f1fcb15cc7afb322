"""Names what holds a running server or a bundle back, and proves it where that can be measured.

:mod:`observe` looks twice and writes down what it saw, an :class:`Observation`; :mod:`signs` is a pure function from
that to ranked diagnoses; :mod:`prove` measures a plan against the same plan without the ailment, in processes of its
own, and :mod:`ask` asks the running server both ways.
"""
