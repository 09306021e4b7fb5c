"""What an overlay's sizes buy: how likely, and for how long, attacks on nodes deny a user. Closed forms, and the real roles asked.

Pure: ``chances`` (static attack), ``course`` (an attack that goes on), ``choice`` (what an operator should choose), ``world`` (the
roles of a whole overlay on a virtual clock), ``trials`` (chance over that world). See ``docs/design/planning.md``.
"""
