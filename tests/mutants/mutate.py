"""Mutants of a module: one small change of its syntax tree each."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
_OPPOSED = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
_NAMES = {"all": "any", "any": "all", "min": "max", "max": "min"}
_METHODS = {
    "startswith": "endswith",
    "endswith": "startswith",
    "removeprefix": "removesuffix",
    "removesuffix": "removeprefix",
    "lstrip": "rstrip",
    "rstrip": "lstrip",
    "partition": "rpartition",
    "rpartition": "partition",
    "lower": "upper",
    "setdefault": "get",
}
_TYPING = {"isinstance", "cast", "TypeVar"}
"""Calls that tell types apart or name them."""
_PROSE = {"lose": 1, "Row": 1}
"""Calls with a text for people, and its place among the arguments."""

Place = tuple[ast.AST, str, int | None]
"""A node, one of its fields, and the index in it if the field is a list."""


@dataclass(frozen=True)
class Module:
    """A module's path and tree."""

    path: Path
    tree: ast.Module

    @classmethod
    def load(cls, path: Path) -> "Module":
        """The module in a file."""
        return cls(path, ast.parse(path.read_bytes()))


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        module: Where it is.
        place: What is changed.
        new: What is put there; ``None`` takes an element out of a list.
        lines: Lines of the statement around it.
        function: Qualified name of the outermost function around it; ``None`` if the change
            takes effect when the module is imported.
        text: Line and change, for people.
    """

    module: Module
    place: Place
    new: ast.AST | None
    lines: range
    function: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.module.path}:{self.text}"

    def compile(self) -> CodeType:
        """The module's code with this change, which stays in the tree."""
        node, field, index = self.place
        if index is None:
            setattr(node, field, self.new)
        elif self.new is None:
            del getattr(node, field)[index]
        else:
            getattr(node, field)[index] = self.new
        ast.fix_missing_locations(self.module.tree)
        return compile(self.module.tree, str(self.module.path.resolve()), "exec")


def mutants_of(module: Module) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its source."""
    for statement in module.tree.body:
        yield from _Walk(module).enter(statement)


@dataclass(frozen=True)
class _Walk:
    """A walk through a module, within a class, a function and a statement."""

    module: Module
    scope: str = ""
    function: str | None = None
    statement: ast.stmt | None = None

    def enter(self, node: ast.AST) -> Iterator[Mutant]:
        """Mutants of what is below a node."""
        walk = replace(self, statement=node) if isinstance(node, ast.stmt) else self
        match node:
            case ast.FunctionDef(name=name):
                yield from walk._children(node.args)
                inner = replace(walk, function=self.function or self.scope + name)
                yield from inner._list(node, "body")
            case ast.ClassDef(bases=[ast.Name(id="Enum")]):
                return  # labels
            case ast.ClassDef(name=name):
                yield from replace(walk, scope=f"{self.scope}{name}.")._list(node, "body")
            case ast.Raise(exc=ast.Call() as call):
                yield from walk._call(call, prose=0)
            case ast.Call(func=ast.Name(id=name)) if name in _TYPING:
                return
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                yield from walk._call(node, prose=_PROSE.get(name))
            case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")) | ast.Assert():
                return
            case ast.Assign(targets=[ast.Name(id="__slots__")]):
                return
            case ast.Expr(value=ast.Constant()):
                return  # a docstring
            case _:
                yield from walk._children(node)

    def _children(self, node: ast.AST) -> Iterator[Mutant]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "format_spec"):
                continue
            if isinstance(value, list):
                yield from self._list(node, field)
            elif isinstance(value, ast.AST):
                yield from self._at((node, field, None), value)

    def _list(self, node: ast.AST, field: str) -> Iterator[Mutant]:
        for index, value in enumerate(getattr(node, field)):
            if isinstance(value, ast.AST):
                yield from self._at((node, field, index), value)

    def _call(self, call: ast.Call, prose: int | None) -> Iterator[Mutant]:
        """Mutants of a call, but for an argument that is a text for people."""
        yield from self._at((call, "func", None), call.func)
        for index, argument in enumerate(call.args):
            if index == prose:
                continue
            if not isinstance(argument, ast.Starred | ast.Constant):
                yield self._mutant((call, "args", index), argument, ast.Constant(None))
            yield from self._at((call, "args", index), argument)
        for index, keyword in enumerate(call.keywords):
            yield self._mutant((call, "keywords", index), keyword, None)
            yield from self._at((keyword, "value", None), keyword.value)

    def _at(self, place: Place, node: ast.AST) -> Iterator[Mutant]:
        """Mutants of a node and of what is below it."""
        for new in _alternatives(node, is_in_function=self.function is not None):
            yield self._mutant(place, node, new)
        for condition, test in _conditions(node):
            yield self._mutant(condition, test, ast.UnaryOp(ast.Not(), test))
        if isinstance(node, ast.Match) and len(node.cases) > 1:
            for index, case in enumerate(node.cases):
                yield self._mutant((node, "cases", index), case, None)
        yield from self.enter(node)

    def _mutant(self, place: Place, old: ast.AST, new: ast.AST | None) -> Mutant:
        near = (old, place[0], self.statement)
        around = next((node for node in near if isinstance(node, ast.stmt)), old)
        first = getattr(around, "lineno", 1)
        lines = range(first, getattr(around, "end_lineno", first) + 1)
        line = getattr(getattr(old, "pattern", old), "lineno", first)
        text = f"{line}: {_show(old)}  ->  {'nothing' if new is None else _show(new)}"
        return Mutant(self.module, place, new, lines, self.function, text)


def _alternatives(node: ast.AST, *, is_in_function: bool) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(f"XX{value}XX" if value else "XX")
        case ast.Constant(value=bytes(value)):
            yield ast.Constant(b"XX" + value)
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            yield ast.Compare(node.left, [_COMPARED[type(op)]()], node.comparators)
        case ast.BoolOp(op=op):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp(op=operator) if type(operator) in _COMPUTED:
            yield ast.BinOp(node.left, _COMPUTED[type(operator)](), node.right)
        case ast.Name(id=name) if name in _NAMES:
            yield ast.Name(_NAMES[name], ast.Load())
        case ast.Attribute(attr=name) if name in _METHODS:
            yield ast.Attribute(node.value, _METHODS[name], ast.Load())
        case ast.Lambda():
            yield ast.Lambda(node.args, ast.Constant(None))
        case ast.AugAssign():
            yield ast.Assign([node.target], node.value)
        case ast.Return(value=ast.expr() as returned) if not _is_none(returned):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Name() | ast.Tuple()]) if is_in_function:
            if not _is_none(node.value):
                yield ast.Assign(node.targets, ast.Constant(None))
        case ast.AnnAssign(target=ast.Name(), value=ast.expr() as assigned) if is_in_function:
            if not _is_none(assigned):
                yield ast.Assign([node.target], ast.Constant(None))
        case ast.Assign() | ast.AnnAssign(target=ast.Attribute()) if is_in_function:
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _conditions(node: ast.AST) -> Iterator[tuple[Place, ast.expr]]:
    """Conditions that no other mutant turns into their opposite."""
    found: list[tuple[Place, ast.expr]] = []
    match node:
        case ast.If() | ast.IfExp() | ast.While():
            found.append(((node, "test", None), node.test))
        case ast.comprehension():
            found += [((node, "ifs", index), test) for index, test in enumerate(node.ifs)]
        case ast.match_case(guard=ast.expr() as guard):
            found.append(((node, "guard", None), guard))
    for place, test in found:
        match test:
            case ast.UnaryOp(op=ast.Not()) | ast.Constant():
                continue
            case ast.Compare(ops=[op]) if isinstance(op, _OPPOSED):
                continue
        yield place, test


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _show(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 90 else f"{text[:87]}..."
