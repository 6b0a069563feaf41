"""Several processes that train one model together, under Hugging Face Accelerate; or one alone.

`accelerate launch` starts the same script in each of them and tells their number in WORLD_SIZE.
Each takes its share of every batch, so that a batch is as large as it was for one process, and the
gradients are those of the whole batch. Nothing else about a run changes: the same checkpoint may be
resumed by another number of processes.
"""

import torch
from torch import nn

from cpnb.runs.machine import team_size


class Alone:
    """A team of one: what a run does when nobody launched others."""

    size, rank, device = 1, 0, None
    leads = True

    @property
    def part(self) -> tuple[int, int]:
        """This process's number, from 0, and how many there are."""
        return self.rank, self.size

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model to run forwards, whose gradients are those of all shares."""
        return model

    def total(self, *values: float) -> tuple:
        """The values, summed over the processes."""
        return values

    def align(self, model: nn.Module) -> None:
        """Give all processes the first one's running statistics."""

    def wait(self) -> None:
        """Return when all processes have come as far."""


class Team(Alone):
    """The processes that `accelerate launch` started, seen from one of them."""

    def __init__(self):
        try:
            from accelerate import Accelerator
        except ImportError:
            raise ModuleNotFoundError(
                f"this is one of {team_size()} processes (WORLD_SIZE), and training with several "
                "needs Accelerate: pip install cpnb[accelerate]",
                name="accelerate",
            ) from None
        self._accelerator = Accelerator(mixed_precision="no")
        self.size = self._accelerator.num_processes
        self.rank = self._accelerator.process_index
        self.device = self._accelerator.device
        self.leads = self._accelerator.is_main_process

    def wrapped(self, model: nn.Module) -> nn.Module:
        return self._accelerator.prepare_model(model, device_placement=False)

    def total(self, *values: float) -> tuple:
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        return tuple(self._accelerator.reduce(summed, "sum").tolist())

    def align(self, model: nn.Module) -> None:
        from accelerate.utils import broadcast

        broadcast(list(model.buffers()), from_process=0)

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def team() -> Alone:
    """The processes launched with this one, or this one alone."""
    return Team() if team_size() > 1 else Alone()


def device_for(team: Alone, given) -> torch.device | None:
    """The device of a team's process; one that is given must be of that kind.

    Raises
    ------
    ValueError
        The processes were launched for another kind of device.
    """
    if team.device is None or given is None:
        return team.device if given is None else torch.device(given)
    if torch.device(given).type != team.device.type:
        raise ValueError(
            f"device={str(given)!r}, but this process was launched for {team.device.type}; leave "
            "device out, or launch the processes for it"
        )
    return team.device
