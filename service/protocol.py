"""What is not HTTP is answered with a problem too, though no application ever sees it."""

from __future__ import annotations

import h11
from uuid_utils.compat import uuid7
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.problems import Problem, response_for

__all__ = ["ProblemProtocol"]


class ProblemProtocol(H11Protocol):
    """uvicorn's own, but for its 400 in plain text. Like that one, the answer closes the connection."""

    def send_400_response(self, _msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is under way: it ends here
            problem = Problem(
                "bad-request", "This is not a request as HTTP/1.1 has it.", headers={"Connection": "close"}
            )
            answer = response_for(problem, request_id=str(uuid7()))
            for part in (
                h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
