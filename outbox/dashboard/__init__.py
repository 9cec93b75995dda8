"""The dashboard: every task, why it waits, what went wrong, and the buttons that mend it. Mount it in any ASGI application.

    app.mount("/ops", Dashboard(engine, gate=basic({"ann": (secret, "admin")})))

Closed unless it is given a gate. It needs `dramatiq-outbox[dashboard]`.
"""

from outbox.dashboard.app import Dashboard
from outbox.dashboard.gate import Gate, Role, Visitor, basic
from outbox.dashboard.page import Act, Ask, Done, Evidence, NotThere, Page, Panel, Refused, Tab, View

__all__ = [
    "Act",
    "Ask",
    "Dashboard",
    "Done",
    "Evidence",
    "Gate",
    "NotThere",
    "Page",
    "Panel",
    "Refused",
    "Role",
    "Tab",
    "View",
    "Visitor",
    "basic",
]
