"""Mutation testing of the wire and of tokens: do the tests notice when the code is made wrong?

`operators` makes mutants, `trial` runs the tests on one in a process of its own, `ledger` keeps and prints what
came of it. docs/testing.md says how to read it.
"""
