"""From a model, samples and targets to the best plan for this CPU, with the proof of it.

The sentence of the program is :func:`whet.optimize.run.optimize`; what it passes along is :class:`state.State`.

- Decisions, pure: :mod:`space` (legal plans), :mod:`search` and :mod:`costmodel` (what to measure next),
  :mod:`accuracy` (does it hurt), :mod:`evidence` and :mod:`advice` (the record).
- Measuring: :mod:`lab` (interleaved rounds) over :mod:`trial` (a process) and :mod:`trial_process` (its inside,
  with :mod:`evaluate`); :mod:`noise` says which blocks count.
- Steps: :mod:`prepare`, :mod:`baselines`, :mod:`stages` (levels), :mod:`gate` (compression under the floor, with
  :mod:`compress`), :mod:`finals`.
- Around: :mod:`data`, :mod:`pictures` and :mod:`pool` (samples), :mod:`journal` (what survives a kill), :mod:`request`.
"""
