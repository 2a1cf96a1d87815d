"""What one trainer was asked, and what it still owes: a request at a time, and none before its data are read. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from site_agent.training.protocol import CheckpointEvent, Failed, Prepare, Prepared, Progress, Reply, Request, Written


@dataclass
class Asking:
    """A trainer as its agent sees it. What a method gives back is for the caller to send, and to do.

    Attributes:
        preparing: whether it reads its data.
        ready: whether it has read them; what is asked of it before waits in `next`.
        at_work: whether a request other than preparing has no answer yet.
        has_worked: whether it was asked for more than to prepare.
    """

    preparing: bool = False
    ready: bool = False
    next: Request | None = None
    at_work: bool = False
    has_worked: bool = False

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return self.preparing or self.at_work

    def take_request(self, prepare: Prepare, request: Request | None) -> Request | None:
        """A request of the agent: what is to be sent for it at once. Without one, the data are read (again)."""
        if self.ready and request is not None:
            return self._hand_over(request)
        self.next = request
        if self.preparing:
            return None
        self.ready, self.preparing = False, True
        return prepare

    def hand_over_next(self) -> Request | None:
        """The data were found enough: what waited for that, and is to be sent now."""
        if not self.ready or self.next is None:
            return None
        request, self.next = self.next, None
        return self._hand_over(request)

    def hear_reply(self, reply: Reply) -> bool:
        """Note what it says; an answer settles its request. Whether it has failed for good, and is to end."""
        if isinstance(reply, Progress | CheckpointEvent | Written):
            return False
        if self.preparing:
            # Data that could not be read are read anew when it is asked again.
            self.preparing, self.ready = False, isinstance(reply, Prepared)
            self.next = self.next if self.ready else None
        else:
            self.at_work = False
        return isinstance(reply, Failed) and reply.fatal

    def halt(self) -> bool:
        """What waits is void. Whether it works on what is void, too, and is to end.

        One that has answered everything stays, and one that still reads its data goes on: else a site that starts more
        slowly than rounds follow each other would never train.
        """
        self.next = None
        return self.at_work

    def _hand_over(self, request: Request) -> Request:
        self.at_work = self.has_worked = True
        return request
