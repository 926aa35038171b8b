"""A policy's view of the images at one exit. The view is also a meter: everything that is read must be paid for.

The evaluation passes a policy all cached images of a split, and the runtime those that are still in the encoder. Both
are views, so that a policy is written once, and its simulated and real exits agree.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tgems.costs.exit_costs import ExitCosts
from tgems.errors import UserError
from tgems.exits.bank_statistics import BankStatistics, bank_statistics


@dataclass
class Reads:
    """Parts of the view that a policy reads at one exit, for which an image that visits the exit pays.

    Attributes:
        head: The embedding, by the exit's head or by the frozen pooling and projection.
        bank: Similarities to the text bank.
        gate: The output of the policy's trained gate.
        charged: MACs of the policy's own arithmetic.
        remembered: Whether it reads or keeps what it saw at an earlier exit.
    """

    head: bool = False
    bank: bool = False
    gate: bool = False
    charged: int = 0
    remembered: bool = False


class ExitView(ABC):
    """Images at one exit. `n` is their number.

    Attributes:
        exit_index: The exit (0-based, before the last).
        costs: Costs and sizes of all exits.
        reads: Parts that the policy has read so far.
        allowed: Parts that the policy may read, since they are paid for; None for no limit.
    """

    def __init__(self, exit_index: int, costs: ExitCosts, memory: dict[str, Tensor], allowed: Reads | None = None):
        self.exit_index, self.costs, self.allowed = exit_index, costs, allowed
        self.reads = Reads()
        self._memory = memory

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @property
    def summary(self) -> Tensor:
        """Summaries `[n, S]`, whole-image part first; pooling multiplies nothing, so that reading them is free."""
        return self._summary()

    @property
    def whole_image(self) -> Tensor:
        """The summary's part for the whole image: the class token, or a maximum `[n, d]`."""
        return self._summary()[:, : self.costs.widths[self.exit_index]]

    @property
    def embedding(self) -> Tensor:
        """Unit embeddings `[n, D]` float32. An image that visits the exit pays for the head."""
        self._read("head")
        return self._embedding()

    @property
    def bank(self) -> BankStatistics:
        """Statistics `[n]` of the similarities to the text bank.

        An image that visits the exit pays for the head, and if it goes on also for the product with the bank; at the
        exit that it takes, that product is the answer.
        """
        self._read("head")
        self._read("bank")
        return self._bank()

    @property
    def gate(self) -> Tensor:
        """Score of the policy's trained gate `[n]` float64; it is paid for with everything that the gate reads."""
        if self._gate_reads_bank():
            self._read("head")
            self._read("bank")
        self._read("gate")
        return self._gate()

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """Tensors that `remember` kept at earlier exits, by name; the mapping is empty at the first exit."""
        self._read("remembered")
        return self._memory

    def remember(self, **tensors: Tensor) -> None:
        """Keep a tensor `[n, ...]` per name for later exits.

        A policy that remembers is evaluated at every exit on the way, even at those where no image may leave.
        """
        self._read("remembered")
        self._memory.update(tensors)

    def charge(self, macs: int) -> None:
        """Charge every visiting image for multiply-accumulates of the policy's own arithmetic at this exit."""
        self.reads.charged += macs
        if self.allowed is not None and self.reads.charged > self.allowed.charged:
            raise self._unpaid(f"{self.reads.charged} MACs of its own")

    def _read(self, what: str) -> None:
        setattr(self.reads, what, True)
        if self.allowed is not None and not getattr(self.allowed, what):
            raise self._unpaid(f"view.{'embedding' if what == 'head' else 'memory' if what == 'remembered' else what}")

    def _unpaid(self, what: str) -> UserError:
        return UserError(
            f"a policy reads {what} at exit {self.exit_index + 1} for some images only, so that its cost is unknown; "
            "read the same parts of the view whatever the images are"
        )

    @abstractmethod
    def _summary(self) -> Tensor: ...

    @abstractmethod
    def _embedding(self) -> Tensor: ...

    @abstractmethod
    def _bank(self) -> BankStatistics: ...

    @abstractmethod
    def _gate(self) -> Tensor: ...

    @abstractmethod
    def _gate_reads_bank(self) -> bool: ...


class TrialView(ExitView):
    """Two artificial images at an exit, on which a policy is evaluated to find out what it reads.

    Args:
        exit_index: The exit.
        costs: Costs and sizes of all exits.
        memory: Tensors that the policy remembered at earlier exits.
        gate_reads_bank: Whether the policy's gate, if it has one, reads the text bank.
    """

    def __init__(self, exit_index: int, costs: ExitCosts, memory: dict[str, Tensor], gate_reads_bank: bool):
        super().__init__(exit_index, costs, memory)
        self._reads_bank = gate_reads_bank
        self._generator = torch.Generator().manual_seed(exit_index)

    def __len__(self) -> int:
        return 2

    def _summary(self) -> Tensor:
        return torch.randn(2, self.costs.summary_dim, generator=self._generator)

    def _embedding(self) -> Tensor:
        return F.normalize(torch.randn(2, self.costs.embed_dim, generator=self._generator), dim=-1)

    def _bank(self) -> BankStatistics:
        return bank_statistics(torch.randn(2, 5, generator=self._generator), 1.0)

    def _gate(self) -> Tensor:
        return torch.randn(2, generator=self._generator).double()

    def _gate_reads_bank(self) -> bool:
        return self._reads_bank
