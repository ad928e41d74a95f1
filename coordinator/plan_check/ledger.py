"""The costs file as exact numbers: what an arc costs on a node, computed from steps, tensors and rates (PURE).

A state is a set of steps that are done (bits), an arc (i, j) the steps of state j that are not in state i. Units:
seconds, bytes, joules, as in docs/reference/costs-file.md. Every number is an `int` or a `Fraction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from coordinator.plan_check.flows import Coded, Exact, Flow, Inside
from coordinator.plan_check.kinds import Kind, Rows
from coordinator.plan_check.reading import Row, listed, loads, real, table, text, whole
from slicemq.errors import PlanError

FORMAT = 1
MAX_BYTES = 256 << 20
MAX_STATES = 5000
MAX_STEPS = 20_000
MAX_NODES = 1000
FORBIDDING = Fraction(10**30)
"""The error of a cut of which nobody knows it: more than any budget."""


@dataclass(frozen=True)
class State:
    """Steps that are done, the codec of what crosses, whether one may cut here, and the error that it adds."""

    done: int
    codec: str
    legal: bool
    error: Fraction


class Ledger:
    """A costs file. Raises PlanError for what is not one."""

    def __init__(self, source: str | bytes) -> None:
        body = Row(loads(source, "costs", MAX_BYTES), "costs")
        body.whole("format", FORMAT, FORMAT)
        self.model = body.text("model")
        self.stateful = body.flag("stateful")
        self.frame = body.whole("frame_bytes")
        self.call = body.row("profile").real("call")
        costs = body.row("overheads")
        self.message = costs.real("message")
        self.per_byte = costs.real("receive_per_byte"), costs.real("send_per_byte")
        self.sizes: dict[int, int] = {}
        self.coded: dict[str, dict[int, Coded]] = {}
        for row in _tuples(body, "tensors", 5, MAX_STEPS):
            self._tensor(row, body.at("tensors"))
        self.operators: dict[int, int] = {}
        self.reads: list[tuple[int, ...]] = []
        self.makes: list[tuple[int, ...]] = []
        for row in _tuples(body, "operators", 5, MAX_STEPS):
            self.operators[whole(row[0], body.at("operators"))] = len(self.reads)
            self.reads.append(tuple(dict.fromkeys(self._tensors(row[3], body.at("operators")))))
            self.makes.append(self._tensors(row[4], body.at("operators")))
        self.steps = len(self.reads)
        if not self.steps or len(self.operators) != self.steps:
            raise PlanError(f"{body.at('operators')}: expected at least one, each once")
        self.inputs = self._tensors(body["inputs"], body.at("inputs"))
        self.outputs = frozenset(self._tensors(body["outputs"], body.at("outputs")))
        self.maker = {t: step for step, made in enumerate(self.makes) for t in made}
        self.users: dict[int, int] = {}
        for step, read in enumerate(self.reads):
            for t in read:
                self.users[t] = self.users.get(t, 0) | 1 << step
        self.together = [
            sum(1 << s for s in set(self._places(row, body))) for row in body.items("together", MAX_STEPS)
        ]
        self.states = self._states(body)
        self.prefixes = body.flag("prefixes")
        self._flows: dict[int, list[Flow]] = {}
        self.ends = self._arcs()
        self.columns = [{j: place for place, j in enumerate(row)} for row in self.ends]
        self.heads = [i for i, row in enumerate(self.ends) if row]
        self.row_of = {i: place for place, i in enumerate(self.heads)}
        self.lengths = [len(self.ends[i]) for i in self.heads]
        self.broker_rate = body.real("broker_rate", above=0) if body.has("broker_rate") else None
        self.data_brokers: frozenset[str] | None = None
        self.relaying = Fraction(0)
        if body.has("data_brokers"):
            brokers = body.row("data_brokers")
            self.data_brokers, self.relaying = frozenset(brokers.texts("nodes")), brokers.real("per_byte")
        self.relaxed = False
        self.max_slices = body.whole("max_slices", 1)
        self.headroom = body.real("headroom")
        self.excluded = frozenset(body.texts("excluded"))
        self.goal = body.row("goal")
        self.budget = self.goal.real("error_budget")
        self._given = self._traffic(body) if body.has("traffic") else None
        self._flows = {}
        self.hop_bytes: list[Fraction] | None = None
        self.hop_rates: list[list[Fraction]] = []
        if body.has("links"):
            self.hop_bytes = self._crossing(body.row("links"))
        memories = [table(row["rows"], row.at("rows"), self.lengths) for row in body.rows("memory", MAX_NODES)]
        self.kinds = [Kind(self, row, memories) for row in body.rows("nodes", MAX_NODES)]
        self.kind_of = {node: number for number, kind in enumerate(self.kinds) for node in kind.ids}
        if not self.kinds or len(self.kind_of) != sum(kind.count for kind in self.kinds):
            raise PlanError(f"{body.at('nodes')}: expected at least one, each id once")
        where = body.at("slice_pins")
        self.slice_pins = {
            whole(row[0], where): self._node(row[1], where) for row in _tuples(body, "slice_pins", 2, MAX_STEPS)
        }
        where = body.at("step_pins")
        self.step_pins = [
            (self._place(row[0], where), self._place(row[1], where), self._node(row[2], where))
            for row in _tuples(body, "step_pins", 3, MAX_STEPS)
        ]
        if body.has("links"):
            self._links(body.row("links"))

    @property
    def n(self) -> int:
        """The number of the last state."""
        return len(self.states) - 1

    def with_any_brokers(self) -> Ledger:
        """The costs by which no plan costs more than it does, over whichever brokers its bundles go.

        The main broker delivers only what clients send and get; a bundle between slices takes half of its time
        up and half of its time down, which is never more than the longer of the two.
        """
        other = copy(self)
        other.relaxed, other._flows = True, {}
        other.kinds = [kind.of(other) for kind in self.kinds]
        return other

    def flow(self, i: int, j: int) -> Flow:
        """The bytes of an arc whose tensors travel as they are, or as the file's own table says."""
        if i not in self._flows:
            self._flows[i] = self._computed(i, self.ends[i])
            if self.hop_bytes is not None:
                self._flows[i] = [
                    self._client_only(i, j, flow.codec)
                    for j, flow in zip(self.ends[i], self._flows[i], strict=True)
                ]
            if self._given is not None:
                self._flows[i] = self._listed(i, self._given)
            if self.relaxed and i > 0:
                self._flows[i] = [replace(flow, relayed=flow.relayed - flow.into) for flow in self._flows[i]]
        return self._flows[i][self.columns[i][j]]

    def hop(self, a: int, b: int, state: int) -> Fraction | None:
        """Seconds of the hop from a node of type a to one of type b at a state; None: there is no link."""
        if self.hop_bytes is None:
            return Fraction(0)
        size, rate = self.hop_bytes[state], self.hop_rates[a][b]
        return Fraction(0) if size == 0 else size / rate if rate > 0 else None

    def size(self, tensors: Sequence[int]) -> int:
        """A message of these tensors, its frame included."""
        return self.frame + sum(self.sizes[t] for t in tensors)

    def _states(self, body: Row) -> list[State]:
        found = []
        for row in _tuples(body, "states", 6, MAX_STATES):
            where = body.at("states")
            done = 0
            for run in listed(row[0], where):
                first, last = (self._place(value, where) for value in listed(run, where, 2)[:2] or [None, None])
                if first > last:
                    raise PlanError(f"{where}: steps {first} to {last}")
                done |= (1 << last + 1) - (1 << first)
            if not isinstance(row[2], bool):
                raise PlanError(f"{where}: expected true or false")
            error = FORBIDDING if row[3] is None else real(row[3], where)
            found.append(State(done, text(row[1], where), row[2], error))
        if len(found) < 2 or found[0].done or found[-1].done != (1 << self.steps) - 1:
            raise PlanError(f"{body.at('states')}: expected the first with nothing done, the last with all")
        return found

    def _arcs(self) -> list[list[int]]:
        legal = [number for number, state in enumerate(self.states) if state.legal]
        ends: list[list[int]] = [[] for _ in self.states]
        for place, i in enumerate(legal):
            done = self.states[i].done
            ends[i] = [
                j for j in legal[place + 1 :] if (other := self.states[j].done) != done and not done & ~other
            ]
            if not self.prefixes:
                ends[i] = [j for j in ends[i] if not self._skipped(i, j)]
                flows = self._computed(i, ends[i])
                ends[i] = [j for j, flow in zip(ends[i], flows, strict=True) if flow.into > 0]
        return ends

    def _skipped(self, i: int, j: int) -> bool:
        """Whether a tensor that the codecs of the two states treat differently skips the arc."""
        first, last = self.states[i], self.states[j]
        if first.codec == last.codec:
            return False
        changed = self.coded.get(first.codec, {}).keys() | self.coded.get(last.codec, {}).keys()
        return any(
            t in self.maker and first.done >> self.maker[t] & 1 and self.users.get(t, 0) & ~last.done
            for t in changed
        )

    def _computed(self, i: int, ends: Sequence[int]) -> list[Flow]:
        """The flows of arcs from state i; where one state has all steps of the last, only the rest is added."""
        found = []
        first = self.states[i].done
        done, inside = first, Inside(self, i)
        for j in ends:
            wanted = self.states[j].done
            if done & ~wanted:
                done, inside = first, Inside(self, i)
            more = wanted & ~done
            while more:
                low = more & -more
                done |= low
                inside.add(low.bit_length() - 1, done)
                more ^= low
            found.append(inside.flow(j))
        return found

    def _client_only(self, i: int, j: int, codec: Exact) -> Flow:
        """With links only the client's traffic goes through the broker."""
        into = self.size([t for t in set(self.inputs) if t in self.users]) if i == 0 else 0
        results = self.size(sorted(self.outputs)) if j == self.n else 0
        return Flow(into, results, into + results, codec)

    def _crossing(self, row: Row) -> list[Fraction]:
        """The bytes that cross each state, which must be what the tensors say."""
        given = row.reals("bytes")
        if len(given) != len(self.states):
            raise PlanError(f"{row.at('bytes')}: {len(given)} numbers, expected {len(self.states)}")
        for number, state in enumerate(self.states):
            total = 0
            if 0 < number < self.n:
                coded = self.coded.get(state.codec, {})
                for t, size in self.sizes.items():
                    maker, users = self.maker.get(t), self.users.get(t, 0)
                    if maker is None:
                        total += size if users & ~state.done and t in self.inputs else 0
                    elif state.done >> maker & 1 and (users & ~state.done or t in self.outputs):
                        total += coded[t].bytes if t in coded else size
                total += self.frame
            if state.legal and given[number] != total:
                raise PlanError(
                    f"{row.at('bytes')}: state {number}: {float(given[number])}, its tensors have {total}"
                )
        return given

    def _listed(self, i: int, given: tuple[Rows, Rows, Rows]) -> list[Flow]:
        rows = [given[part][self.row_of[i]] for part in range(3)]
        return [Flow(*(value or 0 for value in values)) for values in zip(*rows, strict=True)]

    def _traffic(self, body: Row) -> tuple[Rows, Rows, Rows]:
        row = body.row("traffic")
        into, out, relayed = (table(row[name], row.at(name), self.lengths) for name in ("in", "out", "relayed"))
        return into, out, relayed

    def _links(self, row: Row) -> None:
        self.hop_rates = [
            [real(v, row.at("rates")) for v in listed(line, row.at("rates"))] for line in row.items("rates")
        ]
        count = len(self.kinds)
        if len(self.hop_rates) != count or any(len(line) != count for line in self.hop_rates):
            raise PlanError(f"{row.where}: expected a rate for each pair of nodes")
        if any(kind.count != 1 for kind in self.kinds):
            raise PlanError(f"{row.where}: expected one node of each type")

    def _tensor(self, row: list[Any], where: str) -> None:
        tensor = whole(row[0], where)
        self.sizes[tensor] = whole(row[3], where)
        for codec, value in Row(row[4], where).pairs():
            if len(listed(value, where)) != 3:
                raise PlanError(f"{where}: codec {codec[:40]}: expected three numbers")
            coded = Coded(whole(value[0], where), real(value[1], where), real(value[2], where))
            self.coded.setdefault(codec, {})[tensor] = coded

    def _tensors(self, value: Any, where: str) -> tuple[int, ...]:
        found = tuple(whole(t, where) for t in listed(value, where, MAX_STEPS))
        for t in found:
            if t not in self.sizes:
                raise PlanError(f"{where}: tensor {t} is not among `tensors`")
        return found

    def _place(self, value: Any, where: str) -> int:
        return whole(value, where, 0, self.steps - 1)

    def _places(self, value: Any, body: Row) -> list[int]:
        return [self._place(step, body.at("together")) for step in listed(value, body.at("together"), self.steps)]

    def _node(self, value: Any, where: str) -> str:
        node = text(value, where)
        if node not in self.kind_of:
            raise PlanError(f"{where}: there is no node {node[:80]}")
        return node


def _tuples(body: Row, key: str, length: int, most: int) -> list[list[Any]]:
    found = []
    for number, row in enumerate(body.items(key, most)):
        if len(listed(row, f"{body.at(key)}[{number}]")) != length:
            raise PlanError(f"{body.at(key)}[{number}]: expected {length} items, got {len(row)}")
        found.append(row)
    return found
