"""The sentences of TextWorld's grammars, evaluated without its repeated work.

TextWorld expands a grammar by parsing every small expression anew and by deep-copying a
context for every symbol; that is most of the time of an ALFWorld step. `Narrator` reads
the same parsed grammar and gives the same text by the same rules: a symbol's first
applicable rule is used, a query's answers come in sorted order, and distinct
placeholders stand for distinct entities.

Import this module only through `engine`, which protects the process from TextWorld's
side effects.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any

from textworld.envs.pddl import textgen
from textworld.logic import Rule, Type, TypeHierarchy

Signature = tuple[str, tuple[str, ...]]  # predicate and its arguments' types
Rows = tuple[tuple[str, ...], ...]  # argument names of facts, sorted
Facts = Mapping[Signature, Rows]
Placeholder = tuple[str, str]  # name and type
Binding = Mapping[Placeholder, str]  # what placeholders stand for
Predicate = tuple[tuple[Signature, ...], tuple[Placeholder, ...]]


class Narrator:
    """Evaluates one game's grammar on the facts of a state."""

    def __init__(self, grammar: Any, entities: Mapping[str, Any], types: Iterable[Any]):
        """Make the narrator of a game.

        Args:
            grammar: TextWorld's parsed `ContextSensitiveGrammar`.
            entities: TextWorld's `EntityInfo` of each name that occurs in facts.
            types: the domain's types, with `name` and `supertype_names`.
        """
        self._rules = grammar._rules
        self._entities = entities
        self._types = _hierarchy(types)
        self._queries: dict[str, tuple[Predicate, ...]] = {}

    def narrate(self, expression: str, binding: Binding, facts: Facts) -> str:
        """Expand an expression such as ``#look.feedback#`` to text.

        Raises:
            CSGUnknownSymbolError: if the grammar has no applicable rule for a symbol.
        """
        return self._join(_parse(expression), binding, facts)

    def _join(self, symbols: Iterable[Any], binding: Binding, facts: Facts) -> str:
        return "".join(
            text for symbol in symbols for text in self._texts(symbol, binding, facts)
        )

    def _texts(self, symbol: Any, binding: Binding, facts: Facts) -> list[str]:
        """Expand one symbol; a query in it gives one text for each of its answers."""
        match symbol:
            case textgen.TerminalSymbol():
                return [str(symbol)]
            case textgen.NonterminalSymbol():
                return [self._expand(symbol, binding, facts)]
            case textgen.EvalSymbol():
                return [str(self._evaluate(symbol.expression, binding))]
            case textgen.ConditionalSymbol():
                answers = self._answers(symbol.given, binding, facts)
                return [
                    text
                    for answer in answers
                    for text in self._texts(symbol.expression, answer, facts)
                ]
            case textgen.ListSymbol():
                items = self._texts(symbol.symbol, binding, facts)
                return [self._enumerate(items, binding, facts)]
        raise NotImplementedError(f"unknown grammar symbol {symbol!r}")

    def _expand(self, symbol: Any, binding: Binding, facts: Facts) -> str:
        for rule in self._rules.get(str(symbol), ()):
            if any(True for _ in self._answers(rule.condition, binding, facts)):
                return self._join(rule.rhs, binding, facts)
        raise textgen.CSGUnknownSymbolError(symbol)

    def _enumerate(self, items: list[str], binding: Binding, facts: Facts) -> str:
        if not items:
            return self.narrate("#list_empty#", binding, facts)
        if len(items) == 1:
            return items[0]
        separator = self.narrate("#list_separator#", binding, facts)
        last = self.narrate("#list_last_separator#", binding, facts)
        return separator.join(items[:-1]) + last + items[-1]

    def _evaluate(self, expression: str, binding: Binding) -> Any:
        variables = {name: self._entities[of] for (name, _), of in binding.items()}
        return eval(_compile(expression), {}, variables)

    def _answers(
        self, query: str | None, binding: Binding, facts: Facts
    ) -> Iterator[Binding]:
        """Yield the bindings that extend `binding` and satisfy a conjunctive query."""
        if not query:
            return iter((binding,))
        predicates = self._queries.get(query)
        if predicates is None:
            predicates = self._queries[query] = tuple(
                (self._signatures(signature), placeholders)
                for signature, placeholders in _parse_query(query)
            )
        return _solve(predicates, binding, facts)

    def _signatures(self, signature: Signature) -> tuple[Signature, ...]:
        """List a predicate's signatures over all subtypes, in TextWorld's order."""
        predicate, types = signature[0], [self._types.get(t) for t in signature[1]]
        return tuple(
            (predicate, tuple(t.name for t in subtypes))
            for subtypes in self._types.multi_subtypes(types)
        )


def _hierarchy(types: Iterable[Any]) -> TypeHierarchy:
    hierarchy = TypeHierarchy()
    known: set[str] = set()
    for type_ in types:
        if type_.name not in known:  # ALFWorld's domain declares `object` twice
            known.add(type_.name)
            hierarchy.add(Type(type_.name, type_.supertype_names))
    return hierarchy


def _solve(
    predicates: tuple[Predicate, ...], binding: Binding, facts: Facts
) -> Iterator[Binding]:
    if not predicates:
        yield binding
        return
    signatures, placeholders = predicates[0]
    for signature in signatures:
        for names in facts.get(signature, ()):
            extended = _unify(placeholders, names, binding)
            if extended is not None:
                yield from _solve(predicates[1:], extended, facts)


def _unify(
    placeholders: tuple[Placeholder, ...], names: tuple[str, ...], binding: Binding
) -> Binding | None:
    """Bind placeholders to names, or return None where that contradicts `binding`."""
    for placeholder, name in zip(placeholders, names, strict=True):
        if binding.get(placeholder, name) != name:
            return None  # the common case, found before anything is copied
    extended = dict(binding)
    for placeholder, name in zip(placeholders, names, strict=True):
        if placeholder in extended:
            if extended[placeholder] != name:
                return None
        elif name in extended.values():
            return None
        else:
            extended[placeholder] = name
    return extended


@functools.lru_cache(maxsize=256)
def _parse(expression: str) -> tuple[Any, ...]:
    rules = json.dumps({"start": [{"rhs": expression}]})
    grammar = textgen.ContextSensitiveGrammar.parse(rules)
    return tuple(grammar._rules["start"][0].rhs)


@functools.lru_cache(maxsize=256)
def _parse_query(query: str) -> tuple[tuple[Signature, tuple[Placeholder, ...]], ...]:
    return tuple(
        (
            (predicate.signature.name, tuple(predicate.signature.types)),
            tuple((p.name, p.type) for p in predicate.parameters),
        )
        for predicate in Rule.parse_conjunctive_query(query).preconditions
    )


@functools.lru_cache(maxsize=256)
def _compile(expression: str) -> CodeType:
    return compile(expression.strip(), "<grammar>", "eval")
