"""Hostile messages and segments for a running worker: python -m chaos.hostile --cases 10000

Starts a Redis server and a worker with the stub network, sends mutated jobs mixed with good ones,
and checks that the worker takes no harm: it lives on with its memory, threads and descriptors, does
every good job, gives every bad one a reason on the dead-letter list, forges no line of its log, and
opens or removes nothing that no message may name. The same seed makes the same cases.

case.py is a case, messages.py, texts.py and segments.py are the ways to spoil it, bystanders.py are
the files that must stay untouched, siege.py sends the cases and checks how they ended.
"""
