"""Mutants: one small change each to a module's syntax tree, or to the source text that it writes.

What nobody runs is left alone: annotations, docstrings, the words of errors, type aliases. In `kinds` and
`compiler` the operators inside of strings are mutated too, for those strings are the codec.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple

Change = Callable[[], object]


class Mutant(NamedTuple):
    """`apply` changes the tree that it was made of, for good: take one mutant a process."""

    line: int
    what: str
    apply: Change


_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_WRITTEN = {
    " > ": " >= ", " < ": " <= ", " <= ": " < ", " != ": " == ", " == ": " != ", " += ": " -= ", " + ": " - ",
    " - ": " + ", " * ": " + ", " not in ": " in ", " << ": " >> ", " >> ": " << ", " & ": " | ", " | ": " & ",
}  # fmt: skip
_WORDS = frozenset(
    {"WireError", "LocalMisuse", "of", "_require", "_permit", "TypeVar"}
)  # calls whose text is for people
_SYMMETRIC = frozenset({"min", "max"})
_FOR_PEOPLE = frozenset({"doc", "text"})


def mutants(tree: ast.Module, *, writes_source: bool) -> Iterator[Mutant]:
    """Yield all mutants of a module."""
    skipped = _skipped(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        yield from _of_expression(node)
        yield from _of_branch(node)
        yield from _of_statements(node)
        if writes_source:
            yield from _of_text(node)


def _skipped(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes that nobody runs, with all that is in them."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.AnnAssign, ast.arg)):
            roots.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            roots.append(node.returns)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            roots.append(node)
        elif isinstance(node, ast.Call) and _name(node.func) in _WORDS:
            roots += [a for a in node.args if isinstance(a, (ast.Constant, ast.JoinedStr))]
        elif isinstance(node, ast.ClassDef):
            roots += [d for d in node.decorator_list if isinstance(d, ast.Call)]
        elif _is_for_the_checker(node):
            roots.append(node)
    return {part for root in roots if root is not None for part in ast.walk(root)}


def _is_for_the_checker(node: ast.AST) -> bool:
    """True for `if TYPE_CHECKING`, and for `Buffer = bytes | bytearray` and `Decoder = Callable[...]`."""
    if isinstance(node, ast.If):
        return _name(node.test) == "TYPE_CHECKING"
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    name = node.targets[0].id
    camel = name[0].isupper() and not name.isupper() and "_" not in name
    return camel and isinstance(node.value, (ast.BinOp, ast.Subscript))


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _set(node: ast.AST, field: str, value: object) -> Change:
    return lambda: setattr(node, field, value)


def _of_expression(node: ast.AST) -> Iterator[Mutant]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            new = _COMPARED[type(op)]
            ops = [*node.ops[:i], new(), *node.ops[i + 1 :]]
            yield Mutant(line, f"{type(op).__name__} to {new.__name__} in {ast.unparse(node)}", _set(node, "ops", ops))
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _COMPUTED:
        new_op = _COMPUTED[type(node.op)]
        what = f"{type(node.op).__name__} to {new_op.__name__} in {ast.unparse(node)}"
        yield Mutant(line, what, _set(node, "op", new_op()))
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield Mutant(line, f"{type(other).__name__} in {ast.unparse(node)}", _set(node, "op", other))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert, ast.USub)):
        change = _twice_not(node) if isinstance(node.op, ast.Not) else _set(node, "op", ast.UAdd())
        yield Mutant(line, f"without the operator: {ast.unparse(node)}", change)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)


def _twice_not(node: ast.UnaryOp) -> Change:
    return _set(node, "operand", ast.copy_location(ast.UnaryOp(ast.Not(), node.operand), node))


def _of_constant(node: ast.Constant) -> Iterator[Mutant]:
    value = node.value
    if isinstance(value, bool):
        yield Mutant(node.lineno, f"{value} to {not value}", _set(node, "value", not value))
    elif isinstance(value, int):
        yield Mutant(node.lineno, f"{value} to {value + 1}", _set(node, "value", value + 1))
    elif isinstance(value, bytes):
        yield Mutant(node.lineno, f"{value!r} is others", _set(node, "value", b"X" + value[1:]))


def _of_call(node: ast.Call) -> Iterator[Mutant]:
    whole = ast.unparse(node)
    if _can_be_swapped(node):
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        yield Mutant(node.lineno, f"arguments swapped in {whole}", _set(node, "args", swapped))
    names = {k.arg for k in node.keywords}
    for i, keyword in enumerate(node.keywords):
        words_only = keyword.arg == "enum" and "closed" not in names  # says the values' names, and nothing more
        if keyword.arg is not None and keyword.arg not in _FOR_PEOPLE and not words_only:
            rest = [*node.keywords[:i], *node.keywords[i + 1 :]]
            yield Mutant(node.lineno, f"without {keyword.arg}= in {whole}", _set(node, "keywords", rest))


def _can_be_swapped(node: ast.Call) -> bool:
    if len(node.args) < 2 or _name(node.func) in _WORDS | _SYMMETRIC:
        return False
    first, second = node.args[:2]
    fixed = (ast.Starred, ast.JoinedStr)
    return not isinstance(first, fixed) and not isinstance(second, fixed) and ast.dump(first) != ast.dump(second)


def _of_branch(node: ast.AST) -> Iterator[Mutant]:
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        negated = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        yield Mutant(node.lineno, f"negated: if {ast.unparse(node.test)}", _set(node, "test", negated))
    elif isinstance(node, ast.comprehension):
        for i, test in enumerate(node.ifs):
            negated = ast.copy_location(ast.UnaryOp(ast.Not(), test), test)
            ifs = [*node.ifs[:i], negated, *node.ifs[i + 1 :]]
            yield Mutant(test.lineno, f"negated: for ... if {ast.unparse(test)}", _set(node, "ifs", ifs))


def _of_statements(node: ast.AST) -> Iterator[Mutant]:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if not isinstance(block, list) or isinstance(node, ast.Module):
            continue
        for i, statement in enumerate(block):
            gone = _instead_of(statement)
            if gone is not None:
                new = [*block[:i], ast.copy_location(gone, statement), *block[i + 1 :]]
                yield Mutant(statement.lineno, f"gone: {ast.unparse(statement)}", _set(node, field, new))


def _instead_of(statement: ast.stmt) -> ast.stmt | None:
    """Return what stands where the statement was, None to leave it."""
    if isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant):
        return ast.Pass()
    if isinstance(statement, (ast.AugAssign, ast.Raise, ast.Break, ast.Continue)):
        return ast.Pass()
    value = statement.value if isinstance(statement, ast.Return) else None
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return None
    return ast.Return(ast.copy_location(ast.Constant(None), statement))


def _of_text(node: ast.AST) -> Iterator[Mutant]:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return
    for old, new in _WRITTEN.items():
        if old in node.value:
            changed = node.value.replace(old, new, 1)
            yield Mutant(node.lineno, f"writes {changed!r} for {node.value!r}", _set(node, "value", changed))
