"""Coverage-guided fuzzing of everything that reads a stranger's bytes; docs/testing.md says how and what came of it.

`targets` names them all, `oracles` says what must hold of a message, `parties` drives core's objects,
`engine` is the fuzzer's process, `corpus` keeps what it found worth keeping.
"""
