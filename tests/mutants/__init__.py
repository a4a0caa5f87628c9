"""Mutation of the translators: do the tests notice when the code is wrong?

``python -m tests.mutants`` changes one small thing at a time and runs the quick tests that reach
it. What still passes is a survivor: a missing test, redundant code, or a change that nobody can
see.

Written here because much of the code is tables and texts: mutmut 3 leaves out what is not in a
function, and cannot be told to leave texts for people alone.
"""
