"""The ways through a script: where a condition is not known, all of them are followed to where they meet.

Loops whose rounds are not known are gone through twice, so that what grows from round to round isn't taken for known.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial
from typing import Final

from omnicap_cli.prompt_import.assignments import Assignments
from omnicap_cli.prompt_import.expressions import PathEndsError
from omnicap_cli.prompt_import.values import Env, Scope, Unknown, Value, equal, joined_envs


class LeftError(PathEndsError):
    """The function is left by `return`."""


class ContinuedError(PathEndsError):
    """The round of a loop ends by `continue`."""


class BrokenError(PathEndsError):
    """The loop ends by `break`."""


_FIRST_TO_COUNT: Final = (ContinuedError, BrokenError, LeftError, PathEndsError)  # where several ways ended


class Branches(Assignments):
    """A reader of blocks, branches and loops."""

    def block(self, nodes: list[ast.stmt]) -> None:
        """Follow statements in their order. Raises PathEndsError where the way ends."""
        for node in nodes:
            self.clues.count_step()
            read = getattr(self, f"_{type(node).__name__.lower()}", None)
            if read:
                read(node)

    def _take(self, steps: list[Callable[[], None]], line: int) -> None:
        """Follow several ways from here, of which only a run would tell the right one, to where they meet."""
        if len(steps) == 1:
            steps[0]()
            return
        env, scope = self.frame.env, self.scope
        ends: list[Env] = []
        ended: list[PathEndsError] = []
        for step in steps:
            self.frame.env = dict(env)
            self.scope = Scope(is_module=scope.is_module)  # what was made before may not be changed for sure
            try:
                step()
                ends.append(self.frame.env)
            except PathEndsError as error:
                ended.append(error)
                if type(error) is PathEndsError:
                    self.frame.may_raise(self.frame.env)
            finally:
                self.frame.env, self.scope = env, scope
        if not ends:
            raise min(ended, key=lambda error: _FIRST_TO_COUNT.index(type(error)))
        self.frame.env = joined_envs(ends, line)

    # -------------------------------------------------------------------------------------------- branches

    def _if(self, node: ast.If) -> None:
        """A chain of `elif` is taken in one go: in the syntax tree it nests as deep as it is long."""
        steps: list[Callable[[], None]] = []
        rest: list[ast.stmt] = [node]
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            branch = rest[0]
            known = self.test(branch.test)
            rest = branch.orelse
            if known is not False:
                steps.append(partial(self.block, branch.body))
            if known:
                break
        else:
            steps.append(partial(self.block, rest))
        self._take(steps, node.lineno)

    def _match(self, node: ast.Match) -> None:
        subject = self.value(node.subject)
        steps: list[Callable[[], None]] = []
        for case in node.cases:
            known = self._matches(subject, case.pattern)
            if known is not False and case.guard:
                guard = self.test(case.guard)
                known = guard if known or guard is False else None
            if known is not False:
                steps.append(partial(self.block, case.body))
            if known:
                break
        else:
            steps.append(partial(self.block, []))
        self._take(steps, node.lineno)

    def _matches(self, subject: Value, pattern: ast.pattern) -> bool | None:
        if isinstance(pattern, ast.MatchValue):
            return self.compared(equal, subject, self.value(pattern.value), pattern.lineno)
        if isinstance(pattern, ast.MatchOr):
            found = [self._matches(subject, each) for each in pattern.patterns]
            return True if True in found else None if None in found else False
        if isinstance(pattern, ast.MatchAs):
            if pattern.name:
                self._set_name(pattern.name, subject, pattern.lineno)
            return self._matches(subject, pattern.pattern) if pattern.pattern else True
        if isinstance(pattern, ast.MatchSequence) and isinstance(subject, tuple):
            if len(subject) != len(pattern.patterns):
                return None
            parts = [self._matches(*pair) for pair in zip(subject, pattern.patterns, strict=True)]
            return False if False in parts else None if None in parts else True
        return None

    def _try(self, node: ast.Try) -> None:
        """A handler is followed where the way may end; that unknown calls go well is taken for granted."""
        outer, self.frame.raised = self.frame.raised, []
        was_tried, self.frame.is_tried = self.frame.is_tried, True
        ended: PathEndsError | None = None
        try:
            self.block(node.body)
            self.block(node.orelse)
        except PathEndsError as error:
            ended = error
            if type(error) is PathEndsError:
                self.frame.may_raise(self.frame.env)
        raised, self.frame.raised = self.frame.raised, outer
        self.frame.is_tried = was_tried
        if raised and node.handlers:
            env = joined_envs(raised, node.lineno)
            well = [] if ended else [partial(self.block, [])]
            self._take([*well, *(partial(self._handle, each, env) for each in node.handlers)], node.lineno)
        elif ended:
            self.frame.raised += raised
            self.block(node.finalbody)
            raise ended
        self.block(node.finalbody)

    _trystar = _try

    def _handle(self, handler: ast.ExceptHandler, env: Env) -> None:
        self.frame.env = dict(env)
        self.block(handler.body)

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.value(item.context_expr)
            if item.optional_vars:
                self.assign(item.optional_vars, Unknown(node.lineno))
        self.block(node.body)

    _asyncwith = _with

    # ----------------------------------------------------------------------------------------------- loops

    def _for(self, node: ast.For | ast.AsyncFor) -> None:
        def rounds() -> None:
            for item, is_sure in self.rounds(node.iter, node.target):
                self._round(partial(self.assign, node.target, item), node, is_sure=is_sure)

        self._loop(rounds, node)

    _asyncfor = _for

    def _while(self, node: ast.While) -> None:
        def rounds() -> None:
            known = self.test(node.test)
            for is_sure in (known is True, False) if known is not False else ():
                self._round(partial(self.block, []), node, is_sure=is_sure)

        self._loop(rounds, node)

    def _loop(self, rounds: Callable[[], None], node: ast.For | ast.AsyncFor | ast.While) -> None:
        """The rounds of a loop, then its `else` unless it was broken."""
        outer, self.frame.broken = self.frame.broken, []
        after: list[Callable[[], None]] = []
        try:
            rounds()
            after.append(partial(self.block, node.orelse))
        except BrokenError:
            pass
        finally:
            broken, self.frame.broken = self.frame.broken, outer

        def go_on_broken() -> None:
            self.frame.env = joined_envs(broken, node.lineno)

        self._take([*after, go_on_broken] if broken else after, node.lineno)

    def _round(self, begin: Callable[[], None], node: ast.For | ast.AsyncFor | ast.While, *, is_sure: bool) -> None:
        def one_round() -> None:
            begin()
            self._once(node.body, node.lineno)

        self._take([one_round] if is_sure else [one_round, partial(self.block, [])], node.lineno)

    def _once(self, body: list[ast.stmt], line: int) -> None:
        """One round of a loop, to where the next begins. Raises BrokenError where none does."""
        outer, self.frame.continued = self.frame.continued, []
        try:
            self.block(body)
            ends = [self.frame.env, *self.frame.continued]
        except (ContinuedError, BrokenError):
            ends = self.frame.continued
            if not ends:
                raise
        finally:
            self.frame.continued = outer
        self.frame.env = joined_envs(ends, line)

    def _continue(self, _node: ast.Continue) -> None:
        self.frame.continued.append(self.frame.env)
        raise ContinuedError

    def _break(self, _node: ast.Break) -> None:
        self.frame.broken.append(self.frame.env)
        raise BrokenError

    def _expr(self, node: ast.Expr) -> None:
        self.value(node.value)

    def _raise(self, _node: ast.Raise) -> None:
        raise PathEndsError
