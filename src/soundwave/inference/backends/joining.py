"""Calls from several threads as one batch, which a call joins between steps and leaves when it is done or closed.

There is no thread of its own: whoever needs a token, and finds nobody at it, steps for all rows that are there. Prompts
are read in their caller's thread, so a long one holds nobody up. A call stays by itself while it has a draft to check,
since a run of tokens would be read by every row. What others do changes no token of a call.
"""

# R rows of a batch, K of a run, V vocabulary

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from soundwave.inference.backends.batch import Batch
from soundwave.inference.backends.protocol import Prompt, Token
from soundwave.inference.backends.sampling import Choose
from soundwave.inference.backends.speculative import Drafter

POSITIONS = 64  # of drafts checked at once in all rows: more cost a processor more than the passes that they save


class Call:
    """Rows of one call of `generate`: how their tokens are chosen, and those that are made.

    Args:
        rows: numbers among the prompts of the call.
        limits: most tokens of each prompt's answer.
        choose: the next token of rows.
        eos_ids: tokens that end an answer.
        drafters: of each prompt.

    Attributes:
        rows: those that go on.
        answers: the tokens of each row.
        made: tokens that its caller has not taken yet.
        group: its rows while they are by themselves; None: they have joined others'.
        closed: its caller will take no more.
        failed: why its rows could not go on.
    """

    def __init__(
        self, rows: Sequence[int], limits: Sequence[int], choose: Choose, eos_ids: frozenset[int],
        drafters: Sequence[Drafter],
    ):
        self.rows = list(rows)
        self.answers: dict[int, list[int]] = {row: [] for row in rows}
        self.made: deque[Token] = deque()
        self.group: Group | None = None
        self.closed = False
        self.failed: BaseException | None = None
        self._limits, self._choose, self._eos_ids, self._drafters = limits, choose, eos_ids, drafters

    def proposals(self) -> list[list[int]]:
        """For each row a run of tokens that may come next; where nothing is likely, none."""
        share = POSITIONS // len(self.rows)
        return [
            self._drafters[row].propose(min(share, self._limits[row] - len(self.answers[row]) - 1)) for row in self.rows
        ]

    def take(self, scores: Tensor, runs: Sequence[list[int]]) -> list[int]:
        """Chooses the next tokens of each row, as without a draft, up to the first that leaves its run.

        Args:
            scores: (R, K + 1, V) logits, of the newest token and of those of its run.
            runs: of each row.

        Returns:
            How many tokens each row has got.
        """
        made: list[list[Token]] = [[] for _ in self.rows]
        going, place = list(range(len(self.rows))), 0
        while going:
            some = scores[going, place].float()
            rows = [self.rows[i] for i in going]
            chosen = self._choose(some, rows, [self.answers[row] for row in rows])
            logprobs = some.gather(-1, chosen[:, None])[:, 0] - some.logsumexp(-1)
            for i, token, logprob in zip(going, chosen.tolist(), logprobs.tolist(), strict=True):
                made[i].append(Token(self.rows[i], token, logprob))
                self.answers[self.rows[i]].append(token)
            going = [
                i for i in going
                if runs[i][place : place + 1] == [made[i][-1].id] and made[i][-1].id not in self._eos_ids
            ]
            place += 1
        likely: list[list[int]] = scores.argmax(-1).tolist() if scores.shape[1] > 1 else [[] for _ in runs]
        for row, run, tokens, guesses in zip(self.rows, runs, made, likely, strict=True):
            self._drafters[row].checked(run, [token.id for token in tokens], guesses)
            self.made.extend(tokens)
        # last: who finds no rows may rely on it that all tokens are there
        self.rows = [
            row for row in self.rows
            if self.answers[row][-1] not in self._eos_ids and len(self.answers[row]) < self._limits[row]
        ]
        return [len(tokens) for tokens in made]


class Group:
    """Rows that are continued together, of one call or of several.

    Args:
        model: the LLM.
        call: whose rows are the first; their prompts are read, and their first tokens chosen.
        prompts: of the call.
    """

    def __init__(self, model: PreTrainedModel, call: Call, prompts: Sequence[Prompt]):
        runs = call.proposals()
        self.batch = Batch(model, [prompts[row] for row in call.rows], runs)
        self.places = [(call, row) for row in call.rows]  # whose each row of the batch is
        self._take(runs)

    @property
    def calls(self) -> list[Call]:
        """Those that have rows here, each once."""
        return list(dict.fromkeys(call for call, _ in self.places))

    def step(self) -> None:
        """The next token of every row; of a call alone, several where its draft is right."""
        calls = self.calls
        runs = calls[0].proposals() if len(calls) == 1 else [[] for _ in self.places]
        self.batch.step([call.answers[row][-1] for call, row in self.places], runs)
        self._take(runs)

    def join(self, other: Group) -> None:
        """Takes in the rows of another group."""
        self.batch.join(other.batch)
        self.places += other.places

    def drop_closed(self) -> None:
        """Leaves out the rows of calls that are closed."""
        going = [i for i, (call, _) in enumerate(self.places) if not call.closed]
        if 0 < len(going) < len(self.places):
            self.batch.keep(going, [0] * len(going))
        self.places = [self.places[i] for i in going]

    def _take(self, runs: Sequence[list[int]]) -> None:
        """Chooses tokens for all, and leaves out the rows that have ended."""
        counts = [0] * len(self.places)
        for call in self.calls:
            mine = [i for i, (other, _) in enumerate(self.places) if other is call]
            taken = call.take(self.batch.scores[mine], [runs[i] for i in mine])
            for i, count in zip(mine, taken, strict=True):
                counts[i] = count
        going = [i for i, (call, row) in enumerate(self.places) if row in call.rows]
        if going:
            self.batch.keep(going, [counts[i] - 1 for i in going])
        self.places = [self.places[i] for i in going]


class Joined:
    """Where the calls of one LLM meet."""

    def __init__(self) -> None:
        self._group: Group | None = None
        self._coming: list[Group] = []  # they join before the next step
        self._busy = False  # somebody changes the group; nobody holds the lock for as long as that takes
        self._changed = threading.Condition()

    def advance(self, call: Call) -> None:
        """Returns when a call has new tokens, or has ended.

        Raises:
            RuntimeError: the step failed in the thread of another call.
        """
        if call.group is not None and call.rows:
            if not call.group.batch.can_join or any(call.proposals()):
                with torch.no_grad():
                    call.group.step()
                return
            with self._changed:
                self._coming.append(call.group)
                call.group = None
        while call.rows and not call.made and call.failed is None:
            with self._changed:
                self._changed.wait_for(lambda: not self._busy or call.made or call.failed or not call.rows)
                if self._busy or call.made or not call.rows or call.failed:
                    continue
                self._busy = True
            self._work(self._step)
            self._leave_out_closed()
        if call.failed is not None and not call.made:
            raise RuntimeError("a step that was made for several calls failed") from call.failed

    def leave(self, call: Call) -> None:
        """A call's rows take part in no further step. It never waits: it may run when a stream is collected."""
        call.closed, call.group = True, None
        self._leave_out_closed()

    def _step(self) -> None:
        self._drop_closed()
        for coming in self._coming[:]:  # more may come meanwhile
            if self._group is None:
                self._group = coming
            else:
                self._group.join(coming)
            with self._changed:
                self._coming.remove(coming)
        if self._group is not None:
            self._group.step()
            if not self._group.places:
                self._group = None

    def _drop_closed(self) -> None:
        with self._changed:
            self._coming = [group for group in self._coming if not group.places[0][0].closed]
        if self._group is not None:
            self._group.drop_closed()
            if not self._group.places:
                self._group = None

    def _calls(self) -> list[Call]:
        groups = self._coming if self._group is None else [*self._coming, self._group]
        return [call for group in groups for call in group.calls]

    def _leave_out_closed(self) -> None:
        """Where somebody is at it, he does it afterwards."""
        while True:
            with self._changed:
                if self._busy or not any(call.closed for call in self._calls()):
                    return
                self._busy = True
            self._work(self._drop_closed)

    def _work(self, change: Callable[[], None]) -> None:
        """Changes the group; where that fails, nobody can rely on it any more."""
        try:
            with torch.no_grad():
                change()
        except BaseException as error:
            with self._changed:
                for call in self._calls():
                    call.failed = error
                self._group, self._coming = None, []
            raise
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
